"""An adapter on disk: which base it is for, and how it is put on a model with every weight accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmdpo.models.weights import CheckpointError, check_names, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"


def read_base_name(folder: Path) -> str | None:
    """Returns the name of the base that an adapter says it is for, None where it names none."""
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return str(name) if name else None


def read_settings(folder: Path, *, is_trained: bool) -> Any:
    """Returns PEFT's configuration of an adapter. Raises CheckpointError for a kind that PEFT does not know."""
    from peft import PeftConfig, PeftType

    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind not in {known.value for known in PeftType}:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} is for no adapter that PEFT knows: peft_type is {kind!r}")
    settings = PeftConfig.from_pretrained(str(folder))
    settings.inference_mode = not is_trained
    return settings


def attach_adapter(
    model: Any, folder: Path, tensors: Mapping[str, torch.Tensor], *, base: str, is_trained: bool = False
) -> Any:
    """Returns the model with the adapter of a folder on it, frozen unless it `is_trained` further.

    `tensors` are the adapter's weights, and `base` names the model in messages. Raises CheckpointError for an adapter
    whose layers, names or shapes do not fit the model.
    """
    from peft import get_peft_model
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    where = f"the adapter in {folder} is for another base than {base}"
    settings = read_settings(folder, is_trained=is_trained)
    settings.base_model_name_or_path = None  # PEFT would warn where the base lies elsewhere now
    try:
        adapted = get_peft_model(model, settings)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(adapted).items()}
    check_names(expected, {key: tuple(value.shape) for key, value in tensors.items()}, where)
    set_peft_model_state_dict(adapted, dict(tensors))
    return adapted


def read_adapter(folder: Path, *, allow_pickle: bool) -> dict[str, torch.Tensor]:
    """Returns an adapter's weights. Raises CheckpointError for files that are missing, cut short, or pickled."""
    if (folder / ADAPTER).is_file():
        try:
            return dict(load_file(folder / ADAPTER))
        except Exception as error:  # safetensors' own error and OSError alike
            raise CheckpointError(f"{folder / ADAPTER} is cut short or damaged ({error})") from error
    if not (folder / PICKLED_ADAPTER).is_file():
        raise CheckpointError(f"{folder} holds {ADAPTER_CONFIG} and no {ADAPTER}")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds a pickled adapter ({PICKLED_ADAPTER}), and a pickle can run code when it is opened: allow "
            "it with allow_pickle (--allow_pickle) if you trust it"
        )
    loaded: dict[str, torch.Tensor] = torch.load(folder / PICKLED_ADAPTER, map_location="cpu", weights_only=True)
    return loaded
