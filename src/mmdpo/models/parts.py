"""The parts of a vision-language model, which of them are trained, and what training mode does to the others."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

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
