"""Adapters: put on a model, read from disk with every weight accounted for, and told from the base again."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from mmdpo.models.families import PARTS, Family
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import CheckpointError, check_names, read_json

ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"


def add_adapter(model: PreTrainedModel, family: Family, peft_config: Any, parts: Collection[str]) -> nn.Module:
    """Returns the model with a PEFT adapter on the named parts alone.

    Without `target_modules`, or with `all-linear`, every linear layer of the language model is adapted, by full path.
    Names that the user gives are kept, and never reach a part that is frozen.
    """
    from peft import get_peft_model

    if unwrap_adapter(model) is not model:
        raise ValueError(
            "model is a PeftModel already, or names an adapter: give either an adapter in the model or peft_config "
            "(use_peft: true), not both"
        )
    peft_config = copy.deepcopy(peft_config)  # the caller may use it again
    if peft_config.target_modules in (None, "all-linear", ["all-linear"], {"all-linear"}):
        peft_config.target_modules = family.lora_targets(model, tuple(parts))
    else:
        others = tuple(part for part in PARTS if part not in parts)
        peft_config.exclude_modules = _join_exclusions(
            getattr(peft_config, "exclude_modules", None),
            family.lora_exclusion(model, others, peft_config.target_modules),
        )
    adapted: nn.Module = get_peft_model(model, peft_config)
    return adapted


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


def unwrap_adapter(model: Any) -> Any:
    """Returns the model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_added(model: nn.Module) -> frozenset[str]:
    """Returns the names of the parameters that switching an adapter off takes out of the model again."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    added = set[str]()
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            kept = module.get_base_layer()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            kept = module.original_module
        else:
            continue
        own = {id(parameter) for parameter in kept.parameters()}
        added |= {f"{path}.{name}" for name, parameter in module.named_parameters() if id(parameter) not in own}
    return frozenset(added)


def is_undone_by_switching_off(model: nn.Module) -> bool:
    """Says whether the model with its adapter off is its start: a LoRA that changes nothing yet, and moves alone.

    Every LoRA B is still zero, and nothing is trained that PEFT would leave in the model: biases of the base
    (`bias: all`) stay where they are. Of other kinds of adapters nothing is known.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    up = [p for layer in layers for held in (layer.lora_B, layer.lora_embedding_B) for p in held.parameters()]
    added = find_added(model)
    moves_alone = all(name in added for name, p in model.named_parameters() if p.requires_grad)
    return bool(up) and moves_alone and not any(bool(p.any()) for p in up)


def count_bits(model: Any) -> int | None:
    """Returns 8 or 4 for a model with quantised weights, None for one without."""
    if getattr(model, "is_loaded_in_8bit", False):
        return 8
    return 4 if getattr(model, "is_quantized", False) else None


def _join_exclusions(given: str | Collection[str] | None, frozen: str | None) -> str | Collection[str] | None:
    """Returns what PEFT leaves alone: what the user's `exclude_modules` names, and what lies in frozen parts."""
    if not given or frozen is None:
        return given or frozen
    names = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(name)}" for name in sorted(given)]
    return "|".join([*names, frozen])
