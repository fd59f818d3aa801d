"""What of a model is trained: its parts, or an adapter on them; what rests meanwhile, and what does not move after all.

An adapter that is read from disk has every weight accounted for.
"""

import copy
import logging
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mmdpo.models.families import PARTS, Family, find_adaptable, find_family
from mmdpo.models.seams import commit_of
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import CheckpointError, check_names, read_checkpoint_json

logger = logging.getLogger(__name__)


def add_adapter(model: PreTrainedModel, family: Family, peft_config: Any, parts: Collection[str]) -> nn.Module:
    """Returns the model with a PEFT adapter on the named parts alone.

    Without `target_modules`, or with `all-linear`, every linear layer of these parts is adapted, by full path. Names
    that the user gives are kept, and never reach a part that is frozen.
    """
    from peft import get_peft_model
    from peft.tuners.tuners_utils import check_target_module_exists

    if unwrap_adapter(model) is not model:
        raise ValueError(
            "model is a PeftModel already, or names an adapter: give either an adapter in the model or peft_config "
            "(use_peft: true), not both"
        )
    peft_config = copy.deepcopy(peft_config)  # the caller may use it again
    pattern = None
    if peft_config.target_modules in (None, "all-linear", ["all-linear"], {"all-linear"}):
        pattern = peft_config.target_modules = family.lora_targets(model, tuple(parts))
    else:
        frozen = family.locate_parts(model).pattern_of([part for part in PARTS if part not in parts])
        if hasattr(peft_config, "exclude_modules"):
            given = peft_config.exclude_modules or []
            names = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(name)}" for name in sorted(given)]
            peft_config.exclude_modules = "|".join(filter(None, [*names, frozen])) or None
        else:  # of VeRA and others: what is not among its fields is not saved, and whoever loads it adapts more
            peft_config.target_modules = [
                name
                for name, _ in model.named_modules()
                if check_target_module_exists(peft_config, name) and not re.fullmatch(frozen, name)
            ]
    is_ours = pattern is not None and not getattr(peft_config, "target_parameters", None)
    # As PEFT reads the configuration: without what the user leaves out, or trains whole (modules_to_save).
    meant = {name for name, _ in model.named_modules() if is_ours and check_target_module_exists(peft_config, name)}
    adapted: nn.Module = get_peft_model(model, peft_config, revision=commit_of(model.config))
    if is_ours:  # PEFT may have written into the configuration since
        _check_adapted(adapted, meant)
    return adapted


def _check_adapted(adapted: nn.Module, meant: Collection[str]) -> None:
    """Raises ValueError where PEFT has adapted other layers than were meant: it rewrites names of some mixtures."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    base = unwrap_adapter(adapted)
    # Some tokens of a table are trained by a layer of their own (trainable_token_indices).
    beside = tuple(f"{name}." for name, module in base.named_modules() if isinstance(module, AuxiliaryTrainingWrapper))
    layers = (name for name, module in base.named_modules() if isinstance(module, BaseTunerLayer))
    found = {name for name in layers if not name.startswith(beside)}
    if found != set(meant):
        other, kind = sorted(found ^ set(meant)), type(base).__name__
        raise ValueError(
            f"PEFT adapts other layers of {kind} than were meant, since it takes their names for those of an older "
            f"layout: {len(other)} differ, {other[0]} among them. Name layers yourself (lora_target_modules: "
            "[q_proj, v_proj]), or train without an adapter (use_peft: false)"
        )


def read_settings(folder: Path, *, is_trained: bool) -> Any:
    """Returns PEFT's configuration of an adapter. Raises CheckpointError for a kind that PEFT does not know."""
    from peft import PeftConfig, PeftType

    kind = read_checkpoint_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind not in {known.value for known in PeftType}:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} is for no adapter that PEFT knows: peft_type is {kind!r}")
    settings = PeftConfig.from_pretrained(str(folder))
    settings.inference_mode = not is_trained
    return settings


def attach_adapter(
    model: Any, folder: Path, tensors: dict[str, torch.Tensor], *, base: str, is_trained: bool = False
) -> Any:
    """Returns the model with the adapter of a folder and its tensors on it, frozen unless it `is_trained` further.

    `base` names the model in messages. Raises CheckpointError for layers, names or shapes that do not fit the model.
    """
    from peft import get_peft_model
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    where = f"the adapter in {folder} is for another base than {base}"
    settings = read_settings(folder, is_trained=is_trained)
    # PEFT would warn where the base lies elsewhere now.
    settings.base_model_name_or_path, settings.revision = None, commit_of(model.config)
    try:
        adapted = get_peft_model(model, settings)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(adapted).items()}
    check_names(expected, {key: tuple(value.shape) for key, value in tensors.items()}, where)
    set_peft_model_state_dict(adapted, tensors)
    return adapted


def unwrap_adapter(model: Any) -> Any:
    """Returns the model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_adapter(model: Any, peft_config: Any = None) -> None:
    """Raises ValueError for an adapter, in the model or to be added, that cannot be trained here; warns of AdaLoRA.

    It may be one that transformers itself has put into the model, which then looks like a model without an adapter, or
    one that puts tokens of its own in front of a prompt.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    is_bare = unwrap_adapter(model) is model
    if is_bare and any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            "transformers has put an adapter into the model, whose other weights would move too, and not be saved. "
            "Give the adapter's folder as the model, or PeftModel.from_pretrained(base, folder, is_trainable=True)"
        )
    adapters = [*({} if is_bare else model.peft_config).values(), *([] if peft_config is None else [peft_config])]
    if any(settings.is_prompt_learning for settings in adapters):
        raise ValueError(
            "the adapter puts tokens of its own in front of a prompt, which is not supported: take LoRA, or another "
            "adapter on layers"
        )
    if any(settings.peft_type == "ADALORA" for settings in adapters):
        logger.warning(
            "AdaLoRA's ranks stay as they begin (init_r) unless a callback of yours calls "
            "model.base_model.update_and_allocate(state.global_step) in on_optimizer_step, and the loss has no term "
            "that keeps its factors orthogonal"
        )


def describe_unsaved(adapted: Any) -> str | None:
    """Returns which weights a caller trains beside an adapter, which is saved without them; None where there are none.

    Biases are saved where the adapter's configuration says so.
    """
    added = find_added(adapted)
    with_biases = any(getattr(settings, "bias", "none") != "none" for settings in adapted.peft_config.values())
    lost = [
        name
        for name, parameter in unwrap_adapter(adapted).named_parameters(prefix="base_model.model")
        if parameter.requires_grad and name not in added and not (with_biases and name.endswith("bias"))
    ]
    if not lost:
        return None
    return (
        f"{len(lost)} trained weights are no part of the adapter, {lost[0]} among them: neither checkpoints nor the "
        "model hold them. Name their modules in modules_to_save of the adapter's configuration, or freeze them"
    )


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

    Every LoRA B is still zero, and nothing is trained that PEFT would leave in the model, such as biases of the base
    (`bias: all`). Of other kinds of adapters nothing is known.
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


def freeze_parts(model: nn.Module, family: Family, parts: Collection[str]) -> None:
    """Lets the named parts move, and no other."""
    located = family.locate_parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(located.part_of(name) in parts)


def freeze_others(adapted: Any, parts: Collection[str]) -> None:
    """Freezes what an adapter has on other parts than the named ones."""
    base = unwrap_adapter(adapted)
    located = find_family(base.config).locate_parts(base)
    for name, parameter in base.named_parameters():
        if located.part_of(name) not in parts:
            parameter.requires_grad_(False)


def disable_dropout(model: nn.Module) -> int:
    """Sets every dropout to zero, drop path and the probabilities that functions read included; returns how many.

    Dropout of 0.05 moves a sequence's log-probability by a large part of a nat, which rewards mistake for learning.
    """
    changed = 0
    for module in model.modules():
        kind = type(module).__name__.lower()
        is_dropout = "drop" in kind or "stochasticdepth" in kind  # of torch, torchvision, timm and transformers
        for name, value in vars(module).items():
            is_probability = "drop" in name or (is_dropout and name == "p")
            if is_probability and isinstance(value, float) and value:
                setattr(module, name, 0.0)
                changed += 1
    return changed


def keep_layout_of_4_bits(model: nn.Module) -> None:
    """Keeps bitsandbytes from laying 4-bit weights out anew in evaluation, on CPUs with bf16 instructions.

    No gradient passes such a layer any more: an evaluation in the middle of training ended it in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def rest_frozen_modules(model: nn.Module, family: Family) -> None:
    """Puts into evaluation mode what is not trained of a model in training mode, and all running statistics.

    A frozen module computes what the reference computes, without dropout. Running statistics of trained modules rest,
    too: a row would depend on its neighbours. A frozen layer that gradients flow through keeps the flag by which
    transformers recomputes its activations.
    """
    base = unwrap_adapter(model)
    part_of = family.locate_parts(base).part_of
    tower_moves = any(p.requires_grad and part_of(name) == "vision_tower" for name, p in base.named_parameters())
    resting = set[str]()
    for name, module in base.named_modules():
        moves = [parameter.requires_grad for parameter in module.parameters()]
        is_frozen = name.rpartition(".")[0] in resting or (bool(moves) and not any(moves))
        if is_frozen:
            resting.add(name)
        recomputes = isinstance(module, GradientCheckpointingLayer) and (tower_moves or part_of(name) != "vision_tower")
        if (is_frozen and not recomputes) or getattr(module, "running_mean", None) is not None:
            module.training = False


def describe_unreached(adapted: Any, family: Family, parts: Collection[str]) -> str | None:
    """Returns, with counts, which matrices of the trained parts no adapter can reach; None where there are none.

    They lie outside of layers that PEFT adapts: the experts of a mixture in one tensor, a router, Gemma 3's projector,
    the output projection of torch's own attention.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = unwrap_adapter(adapted)
    part_of = family.locate_parts(base).part_of
    layers = (BaseTunerLayer, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    linear = [layer for name, layer in find_adaptable(base).items() if name.rpartition(".")[2] not in family.unadapted]
    others = [module for module in base.modules() if isinstance(module, layers)]
    reached = {id(p) for module in [*others, *linear] for p in module.parameters()}
    missed, weights, total = Counter[str](), 0, 0
    for name, parameter in base.named_parameters():
        if part_of(name) not in parts or parameter.requires_grad:
            continue
        total += parameter.numel()
        if parameter.dim() >= 2 and id(parameter) not in reached:
            missed[re.sub(r"\.\d+(?=\.)", ".*", name)] += 1
            weights += parameter.numel()
    if not missed:
        return None
    names = ", ".join(f"{name} ({count})" for name, count in missed.most_common(4))
    return (
        f"the adapter does not reach {missed.total()} matrices of {', '.join(parts)}, which are no linear layers that "
        f"PEFT adapts: {weights:,} of {total:,} weights ({weights / total:.0%}) stay as they are, among them {names}. "
        "A LoraConfig with target_parameters, given to MDPOTrainer, reaches the experts of a mixture"
    )


def describe_rounding(model: nn.Module, learning_rate: float) -> str | None:
    """Returns for how many trained weights a first update rounds away; None where it is a tenth or fewer.

    Adam's update is about the learning rate. In 16 bits, a weight some hundred times as large stays, at every step.
    """
    lost, total, dtypes = 0.0, 0, set[str]()
    for parameter in model.parameters():
        if not parameter.requires_grad or parameter.dtype not in (torch.bfloat16, torch.float16) or parameter.is_meta:
            continue
        values = parameter.detach().flatten()
        values = values[:: max(1, len(values) // 4096)]  # some, evenly spread, stand for all
        stay = (values + learning_rate == values) & (values - learning_rate == values)
        lost += float(stay.float().mean()) * parameter.numel()
        total += parameter.numel()
        dtypes.add(str(parameter.dtype).removeprefix("torch."))
    if not total or lost <= 0.1 * total:
        return None
    return (
        f"{lost / total:.0%} of the {total:,} trained weights in {' and '.join(sorted(dtypes))} are so large that an "
        f"update of the learning rate, {learning_rate:g}, rounds away: they do not move. Load the model in float32 "
        "(dtype: float32, the default) and set bf16: true, or train an adapter"
    )
