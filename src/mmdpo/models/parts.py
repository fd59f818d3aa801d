"""The parts of a vision-language model: which are trained, what rests meanwhile, and what does not move after all."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mmdpo.models.adapters import unwrap_adapter
from mmdpo.models.families import Family, find_family


def freeze_parts(model: nn.Module, family: Family, parts: Collection[str]) -> None:
    """Lets the named parts move and keeps the others as they are."""
    located = family.locate_parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(located.part_of(name) in parts)


def freeze_others(adapted: Any, parts: Collection[str]) -> None:
    """Keeps what an adapter has on other parts of the model than those that are named as it is."""
    base = unwrap_adapter(adapted)
    located = find_family(base.config).locate_parts(base)
    for name, parameter in base.named_parameters():
        if located.part_of(name) not in parts:
            parameter.requires_grad_(False)


def disable_dropout(model: nn.Module) -> int:
    """Sets every dropout to zero, modules and the probabilities that functions read; returns how many.

    Drop path (stochastic depth), which leaves out whole layers, is one of them. Dropout of 0.05 moves a sequence's
    log-probability by a large part of a nat, which rewards mistake for learning.
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
    """Keeps bitsandbytes from laying 4-bit weights out anew in the first forward of evaluation mode.

    It does so on CPUs with bf16 instructions, for speed, and no gradient passes such a layer any more: an evaluation
    in the middle of training would end it in silence (test_adapters.py).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def rest_frozen_modules(model: nn.Module, family: Family) -> None:
    """Puts into evaluation mode what is not trained of a model in training mode, and all running statistics.

    A frozen module computes what the reference computes: no dropout, and no statistics of the batch. Running
    statistics of trained modules rest, too: a row would depend on its neighbours. A frozen layer that gradients flow
    through keeps the flag by which transformers recomputes its activations.
    """
    base = unwrap_adapter(model)
    part_of = family.locate_parts(base).part_of
    moving, holding, moving_parts = set[str](), set[str](), set[str]()
    for name, parameter in base.named_parameters():
        places = set(itertools.accumulate(name.split(".")[:-1], "{}.{}".format))
        holding |= places
        if parameter.requires_grad:
            moving |= places
            moving_parts.add(part_of(name))
    resting = set[str]()
    for name, module in base.named_modules():
        is_frozen = name.rpartition(".")[0] in resting or (name in holding and name not in moving)
        if is_frozen:
            resting.add(name)
        recomputes = isinstance(module, GradientCheckpointingLayer) and (
            part_of(name) != "vision_tower" or "vision_tower" in moving_parts
        )
        if (is_frozen and not recomputes) or getattr(module, "running_mean", None) is not None:
            module.training = False


SAMPLE = 4096
"""So many values of each weight, evenly spread, stand for all of them."""

MANY = 0.1
"""Share of weights whose first updates round away that is worth a warning."""

_SHOWN = 4
_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def describe_unreached(adapted: Any, family: Family, parts: Collection[str]) -> str | None:
    """Returns, with counts, which matrices of the trained parts no adapter can reach; None where there are none.

    They are parameters of a module's own, outside of any layer that PEFT adapts: the experts of a mixture, which
    transformers keeps as one tensor for each layer, their router, Gemma 3's projector.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = unwrap_adapter(adapted)
    part_of = family.locate_parts(base).part_of
    reached = {id(p) for m in base.modules() if isinstance(m, BaseTunerLayer) for p in m.get_base_layer().parameters()}
    in_layers = {id(p) for m in base.modules() if isinstance(m, _LAYERS) for p in m.parameters()}
    missed, weights, total = Counter[str](), 0, 0
    for name, parameter in base.named_parameters():
        if part_of(name) not in parts or parameter.requires_grad:
            continue
        total += parameter.numel()
        if parameter.dim() >= 2 and id(parameter) not in reached | in_layers:
            missed[re.sub(r"\.\d+(?=\.)", ".*", name)] += 1
            weights += parameter.numel()
    if not missed:
        return None
    names = ", ".join(f"{name} ({count})" for name, count in missed.most_common(_SHOWN))
    return (
        f"the adapter does not reach {missed.total()} matrices of {', '.join(parts)}, which are no linear layers: "
        f"{weights:,} of {total:,} weights ({weights / total:.0%}) stay as they are, among them {names}. A LoraConfig "
        "with target_parameters, given to MDPOTrainer, reaches the experts of a mixture"
    )


def describe_rounding(model: nn.Module, learning_rate: float) -> str | None:
    """Returns for how many trained weights a first update rounds away; None where there are few.

    Adam's update of a weight is about the learning rate. In 16 bits, a weight that is more than some hundred times
    as large stays as it is, at every step.
    """
    lost, total, dtypes = 0.0, 0, set[str]()
    for parameter in model.parameters():
        if not parameter.requires_grad or parameter.dtype not in (torch.bfloat16, torch.float16) or parameter.is_meta:
            continue
        values = parameter.detach().flatten()
        values = values[:: max(1, len(values) // SAMPLE)]
        stay = (values + learning_rate == values) & (values - learning_rate == values)
        lost += float(stay.float().mean()) * parameter.numel()
        total += parameter.numel()
        dtypes.add(str(parameter.dtype).removeprefix("torch."))
    if not total or lost <= MANY * total:
        return None
    return (
        f"{lost / total:.0%} of the {total:,} trained weights in {' and '.join(sorted(dtypes))} are so large that an "
        f"update of the learning rate, {learning_rate:g}, rounds away: they do not move. Load the model in float32 "
        "(dtype: float32, the default) and set bf16: true, or train an adapter"
    )
