"""Recipes: flat YAML in TRL's conventions, overridden by flags; what is misspelt is an error, never ignored."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from mmdpo.files import holds_more
from mmdpo.keys import HIDDEN, RecipeError, check_flags, explain_unknown, find_recipe, known_keys, pop_config
from mmdpo.options import name_choice
from mmdpo.training.config import SECRETS, MDPOConfig
from mmdpo.training.ranges import check_ranges
from mmdpo.world import find_world

__all__ = ["Recipe", "RecipeError", "parse_recipe"]

LONGEST_RECIPE = 2**18
"""Bytes of a recipe that are read; the longest that ships has two thousand."""

MOST_ENTRIES = 10_000
"""Keys and values that a recipe may have in all, aliases counted as often as they are used."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of."""

    script: Any
    """TRL's ScriptArguments: which dataset."""
    training: MDPOConfig
    model: Any
    """TRL's ModelConfig: which model, adapter and quantisation."""

    def options(self, *, quantised: bool = True) -> MDPOConfig:
        """Returns the options of the run with those of the model among them, quantisation if it is wanted here."""
        model, given = self.model, dict(self.training.model_init_kwargs or {})  # type: ignore[arg-type]
        options = dict(revision=model.model_revision, attn_implementation=model.attn_implementation, dtype=model.dtype)
        if quantised and (quantisation := get_quantization_config(model)) is not None:
            options["quantization_config"] = quantisation
        return self.training.with_changes(model_init_kwargs=options | given)

    def resolved(self) -> dict[str, Any]:
        """Returns every key with the value that the run uses, secrets left out; a recipe that repeats the run."""
        left_out = {*SECRETS, *HIDDEN, "resume_from_checkpoint"}
        values: dict[str, Any] = {}
        for part in (self.script, self.training, self.model):
            for field in dataclasses.fields(part):
                value = _to_plain(getattr(part, field.name))
                if field.init and field.name not in left_out and not (value is None and field.default is None):
                    values[field.name] = value
        if self.training.evaluates_at_end and values["eval_strategy"] == "no":
            del values["eval_strategy"]  # it was left unset, which evaluates once
        if str(values["objective"]).lstrip().startswith("["):
            values["objective"] = json.loads(values["objective"])
        return values


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """Returns the recipe that `--config FILE`, or the name of one that comes with mmdpo, and flags describe; flags win.

    Raises RecipeError for a file that is no mapping, an unknown or repeated key in file or flags (naming the nearest
    valid one), and for values that do not fit, naming what is at fault: the file, or a flag.
    """
    parser = _make_parser()
    arguments = list(arguments)
    config = pop_config(arguments)
    flags = check_flags(arguments)
    values = _read_yaml(config) if config is not None else {}
    try:
        script, training, model = _parse(parser, values, arguments)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{_find_fault(config, values, flags, error)}{error}") from error
    for needed, value in (("model_name_or_path", model.model_name_or_path), ("dataset_name", script.dataset_name)):
        if value is None:
            raise RecipeError(f"{needed} is missing: give it in the recipe or as --{needed}")
    mine, theirs = find_world(model.model_name_or_path), find_world(script.dataset_name)
    if mine is not None and theirs is not None and mine is not theirs:
        raise RecipeError(
            f"the model of {mine.name} knows no pictures and words of {theirs.name}: set dataset_name to {mine.name}"
        )
    return Recipe(script, training, model)


def _make_parser() -> _RecipeParser:
    return _RecipeParser((ScriptArguments, MDPOConfig, ModelConfig), allow_abbrev=False)


def _parse(parser: _RecipeParser, values: dict[str, Any], arguments: Sequence[str]) -> tuple[Any, MDPOConfig, Any]:
    """Returns TRL's script arguments, our options and TRL's model options. Raises ValueError or TypeError."""
    parser.set_defaults_with_config(**{key: value for key, value in values.items() if value in (None, [])})
    # Values of the file go the way of flags, in front of them, so that the parser checks both alike.
    script, training, model = parser.parse_args_into_dataclasses(args=[*_to_flags(values), *arguments])
    check_ranges(model)
    targets = model.lora_target_modules
    # TRL makes a list of one name a text, which PEFT reads as a regular expression for the whole path of a module.
    if isinstance(targets, str) and re.fullmatch(r"[\w.]+", targets):
        model.lora_target_modules = [targets]
    return script, training, model


def _find_fault(config: str | None, values: dict[str, Any], flags: Iterable[str], error: Exception) -> str:
    """Returns what an error's message begins with: the recipe's file where it is at fault alone, else flags."""
    if config is not None:
        try:
            _parse(_make_parser(), values, ())
        except (ValueError, TypeError) as alone:
            if str(alone) == str(error):
                return f"{config}: "
    spelt = str(error).replace("-", "_")
    named = [f"--{flag}" for flag in flags if re.search(rf"(?<!\w){flag}(?!\w)", spelt)]
    if len(named) == 1 and spelt.startswith(named[0][2:]):
        return "--"  # the message begins with the key
    return f"{', '.join(named)}: " if named else ""


class _RecipeParser(TrlParser):
    """TRL's parser with argparse's exit turned into our error."""

    def add_argument(self, *names: Any, decides: str = "", **settings: Any) -> Any:
        """Adds a flag; of a field's metadata argparse knows all but what the option decides."""
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> Any:
        """Raises ValueError instead of leaving the process, which begins with the key as recipes spell it."""
        message = name_choice(message)
        found = re.match(r"argument --([\w-]+)(?:/--[\w-]+)*: ", message)
        raise ValueError(message if found is None else f"{found[1].replace('-', '_')}: {message[found.end() :]}")


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, which plain YAML answers by dropping the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping, checking its keys."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # said by YAML itself below
            if key in seen:
                raise RecipeError(f"{node.start_mark.name}: {key!r} is given twice, in lines {seen[key]} and {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


def _read_yaml(name_or_path: str) -> dict[str, Any]:
    path = str(find_recipe(name_or_path))
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST_RECIPE + 1)
        if len(content) > LONGEST_RECIPE:
            raise RecipeError(f"{path} is longer than {LONGEST_RECIPE} bytes, which no recipe is: give another file")
        loader = _StrictLoader(content.decode("utf-8-sig"))
        loader.name = path  # for the messages of YAML
        values = loader.get_single_data()
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not text in UTF-8 ({error.reason}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deeply to be a recipe") from error
    if holds_more(values, MOST_ENTRIES):
        raise RecipeError(f"{path} holds more than {MOST_ENTRIES} values, which no recipe does: give another file")
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a flat mapping of keys to values")
    for key in values:
        if key not in known_keys():
            raise RecipeError(f"{path}: unknown key {key!r}{explain_unknown(str(key), known_keys())}")
    return values


def _to_flags(values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value)):
            yield f"--{key}={json.dumps(value)}"
        elif isinstance(value, list) and value:
            yield from (f"--{key}", *map(str, value))
        elif value not in (None, []):
            yield f"--{key}={value}"


def _to_plain(value: Any) -> Any:
    """Returns a value as YAML writes it."""
    if hasattr(value, "value"):  # an enumeration
        return value.value
    if hasattr(value, "to_dict"):
        return _to_plain(value.to_dict())
    if isinstance(value, dict):
        return {str(key): _to_plain(entry) for key, entry in value.items() if key not in SECRETS}
    if isinstance(value, list | tuple):
        return [_to_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
