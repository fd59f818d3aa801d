"""Loads a model with every weight accounted for, where transformers would only warn and make up what is missing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file, has_file

from mmdpo.models.seams import LOAD_REPORT
from mmdpo.models.weights import CheckpointError, check_names, read_weights

BUNNY_LAYOUT = "bunny-phi"
"""The `model_type` of Bunny checkpoints as they were published, which have to be converted."""

HARMLESS = re.compile(r"(^|\.)(position_ids|inv_freq)$")
"""Names of buffers that older checkpoints hold, and models now make themselves or do without."""


def load_whole_model(name: str, **options: Any) -> PreTrainedModel:
    """Returns the vision-language model of a folder or hub name; `options` are those of `from_pretrained`.

    Raises CheckpointError for weights that are missing, unknown or of another shape than config.json says, and for a
    file that is cut short, or an index that is none, naming it; what `from_pretrained` says of anything else stays.
    """
    try:
        with _without_report():
            model, found = AutoModelForImageTextToText.from_pretrained(
                name, output_loading_info=True, **{**options, "ignore_mismatched_sizes": True}
            )
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(_describe_damage(name, options, error)) from error
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {name} cannot be brought into the model that its config.json describes ({error}). Where "
            "they do not have its shapes or names, fetch the checkpoint again"
        ) from error
    _account(model, found, name)
    return model


def has_pickles_alone(name: str, **where: Any) -> bool:
    """Says whether a folder, or a repository of the hub, has its weights as pickles and not in safetensors."""

    def has(kind: str) -> bool:
        return any(has_file(name, file, **where) for file in (kind, f"{kind}.index.json"))

    return has("pytorch_model.bin") and not has("model.safetensors")


def load_configuration(name: str, *, trust_remote_code: bool, **where: Any) -> Any:
    """Returns a model's configuration; `where` are options of `from_pretrained` that say where it is found.

    Raises CheckpointError for a checkpoint that has to be converted, and ValueError and OSError as transformers does.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **where)
    except ValueError:
        # Where a checkpoint brings its own code, transformers asks to run it.
        check_layout(name, PreTrainedConfig.get_config_dict(name, **where)[0].get("model_type"))
        raise
    check_layout(name, config.model_type)
    return config


def check_layout(name: str, model_type: str | None) -> None:
    """Raises CheckpointError for a checkpoint that has to be converted."""
    if model_type == BUNNY_LAYOUT:
        raise CheckpointError(
            f"{name} is a Bunny checkpoint in its own layout, which runs on code of its own: "
            f"`mmdpo convert bunny {name} FOLDER` writes one that needs none; train on that FOLDER"
        )


@contextmanager
def explained(what: str, name: str) -> Iterator[None]:
    """Lets the errors of transformers say what was being loaded, and of which checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise OSError(f"cannot load the {what} {name!r}: {describe_absence(name) or error}") from error
    except ValueError as error:
        raise CheckpointError(f"cannot load the {what} {name!r}: {error}") from error


def describe_absence(name: str) -> str:
    """Returns what to do about a name that is no folder here and was not found on the hub; empty for a folder."""
    if Path(name).exists() or Path(name).parts[1:] == ():
        return ""
    return (
        f"there is no folder {name} here, and no model of that name could be fetched from the hub. If it is a folder "
        f"that a conversion writes, convert first: mmdpo convert bunny BAAI/Bunny-v1_0-3B {name}. If it is a hub name, "
        "look at its spelling, your connection (HF_HUB_OFFLINE), and, for a private model, your token"
    )


@contextmanager
def _without_report() -> Iterator[None]:
    """Keeps transformers from telling of missing weights that were made up: they are an error here."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return LOAD_REPORT not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def _account(model: PreTrainedModel, found: dict[str, Any], name: str) -> None:
    """Raises CheckpointError, which lists them, for weights that do not fit."""
    strangers = {key for key in found["unexpected_keys"] if not HARMLESS.search(key)}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(found["missing_keys"], ())
    held: dict[str, tuple[int, ...]] = dict.fromkeys(strangers, ())
    for key, on_disk, in_model in found["mismatched_keys"]:
        expected[key], held[key] = tuple(in_model), tuple(on_disk)
    kind, count = type(model).__name__, len(list(model.named_parameters()))
    where = f"the weights of {name} are not those of the {kind} that its config.json describes (nothing was made up)"
    if len(found["missing_keys"]) > count / 2:
        where = (
            f"config.json of {name} describes a {kind}, and its weights are those of another architecture: put the "
            "config.json and the weights of one model together"
        )
    check_names(expected, held, where)


def _describe_damage(name: str, options: dict[str, Any], error: Exception) -> str:
    """Says which file is at fault; the errors of safetensors and of reading an index name none."""
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    config = cached_file(name, "config.json", local_files_only=True, **where)
    try:
        read_weights(Path(config or name).parent)
    except CheckpointError as damage:
        return str(damage)
    return f"a weight file of {name} is cut short or damaged ({error}): fetch it again"
