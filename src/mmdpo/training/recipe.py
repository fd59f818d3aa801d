"""Recipes: flat YAML in TRL's conventions, overridden by flags; what is misspelt is an error, never ignored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from mmdpo.registry import name_nearest
from mmdpo.training.config import SECRETS, MDPOConfig
from mmdpo.training.keys import HIDDEN, RecipeError, check_flags, known_keys
from mmdpo.world.worlds import find_world

__all__ = ["Recipe", "RecipeError", "parse_recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of."""

    script: Any
    """TRL's ScriptArguments: which dataset."""
    training: MDPOConfig
    model: Any
    """TRL's ModelConfig: which model, adapter and quantisation."""

    def model_options(self, *, quantised: bool = True) -> dict[str, Any]:
        """Returns the options of `from_pretrained`, with or without the quantisation that is asked for."""
        model, given = self.model, dict(self.training.model_init_kwargs or {})  # type: ignore[arg-type]
        options = dict(revision=model.model_revision, attn_implementation=model.attn_implementation, dtype=model.dtype)
        quantisation = get_quantization_config(model) if quantised else None
        return {**options, **({} if quantisation is None else {"quantization_config": quantisation}), **given}

    def resolved(self) -> dict[str, Any]:
        """Returns every key with the value that the run uses, secrets left out; a recipe that repeats the run."""
        left_out = {*SECRETS, *HIDDEN, "resume_from_checkpoint"}
        values: dict[str, Any] = {}
        for part in (self.script, self.training, self.model):
            for field in dataclasses.fields(part):
                value = _to_plain(getattr(part, field.name))
                if field.init and field.name not in left_out and not (value is None and field.default is None):
                    values[field.name] = value
        if str(values["objective"]).lstrip().startswith("["):
            values["objective"] = json.loads(values["objective"])
        return values


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """Returns the recipe that `--config FILE` and flags describe; flags win.

    Raises RecipeError for a file that is no mapping, an unknown or repeated key in file or flags (naming the nearest
    valid one), and for values that do not fit.
    """
    parser = _Parser((ScriptArguments, MDPOConfig, ModelConfig), allow_abbrev=False)
    arguments = list(arguments)
    config = _pop_config(arguments)
    check_flags(arguments)
    values = _read_yaml(config) if config is not None else {}
    parser.set_defaults_with_config(**{key: value for key, value in values.items() if value in (None, [])})
    # Values of the file go the way of flags, in front of them, so that the parser checks both alike.
    arguments = [*_to_flags(values), *arguments]
    try:
        script, training, model = parser.parse_args_into_dataclasses(args=arguments)
    except (ValueError, TypeError) as error:
        where = f"{config}: " if config else ""
        raise RecipeError(f"{where}{error}") from error
    for needed, value in (("model_name_or_path", model.model_name_or_path), ("dataset_name", script.dataset_name)):
        if value is None:
            raise RecipeError(f"{needed} is missing: give it in the recipe or as --{needed}")
    _check_worlds(model.model_name_or_path, script.dataset_name)
    return Recipe(script, training, model)


def _check_worlds(model: str | None, dataset: str | None) -> None:
    mine, theirs = find_world(model), find_world(dataset)
    if mine is not None and theirs is not None and mine is not theirs:
        raise RecipeError(
            f"the model of {mine.name} knows no pictures and words of {theirs.name}: set dataset_name to {mine.name}"
        )


class _Parser(TrlParser):
    """TRL's parser with argparse's exit turned into our error."""

    def error(self, message: str) -> Any:
        """Raises ValueError instead of leaving the process."""
        raise ValueError(message)


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


def _pop_config(arguments: list[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == "--config":
            if place + 1 == len(arguments):
                raise RecipeError("--config needs a file")
            del arguments[place]
            return arguments.pop(place)
        if argument.startswith("--config="):
            return arguments.pop(place).partition("=")[2]
    return None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            values = yaml.load(file, Loader=_StrictLoader)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a flat mapping of keys to values")
    for key in values:
        if key not in known_keys():
            raise RecipeError(f"{path}: unknown key {key!r}{name_nearest(str(key), known_keys())}")
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
