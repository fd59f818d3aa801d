"""What of a model training does not move, though it looks as if it would: said beforehand, since no loss shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from mmdpo.models.adapters import unwrap_adapter
from mmdpo.models.families import Family

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
