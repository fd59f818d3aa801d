"""Loads a model with every weight accounted for, where transformers would only warn and make up what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.utils.hub import cached_file

from mmdpo.checkpoints.weights import CheckpointError, check_names

HARMLESS = re.compile(r"(^|\.)(position_ids|inv_freq)$")
"""Names of buffers that older checkpoints hold, and models now make themselves or do without."""


def load_whole_model(name: str, **options: Any) -> PreTrainedModel:
    """Returns the vision-language model of a folder or hub name; `options` are those of `from_pretrained`.

    Raises CheckpointError for weights that are missing, unknown or of another shape than config.json says, and for a
    file that is cut short, naming it; what `from_pretrained` says of anything else stays as it is.
    """
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            name, output_loading_info=True, **{**options, "ignore_mismatched_sizes": True}
        )
    except SafetensorError as error:
        raise CheckpointError(_describe_damage(name, options, error)) from error
    except RuntimeError as error:
        if "automatic conversion" not in str(error):
            raise
        raise CheckpointError(
            f"the weights of {name} do not have the shapes or names that config.json says: fetch the checkpoint again"
        ) from error
    _account(model, found, name)
    return model


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
    """Says which file is cut short; the error of safetensors names none."""
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    config = cached_file(name, "config.json", local_files_only=True, **where)
    for path in sorted(Path(config or name).parent.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as damage:
            return f"{path} is cut short or damaged ({damage}): fetch it again"
    return f"a weight file of {name} is cut short or damaged ({error}): fetch it again"
