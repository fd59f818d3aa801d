"""Which reference a run has, and which cells are scored with it before training."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from torch import nn

from mmdpo.models.adapters import is_undone_by_switching_off, unwrap_adapter
from mmdpo.records import Cell, image_versions
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.reference import AdapterOff, FrozenModel, StartOfPolicy, copy_frozen
from mmdpo.training import build
from mmdpo.training.config import MDPOConfig

LiveReference: TypeAlias = AdapterOff | FrozenModel | StartOfPolicy


def cacheable_cells(args: MDPOConfig) -> tuple[Cell, ...]:
    """Returns the reference cells that are scored before training: all whose image stays the same in every epoch."""
    objective = args.build_objective()
    if not args.precompute_ref_log_probs or not args.corruption_per_epoch:
        return objective.reference_cells if args.precompute_ref_log_probs else ()
    made = {name: how for name, how in args.build_corruptions().items() if name in image_versions(objective.cells)}
    if args.max_length is not None and any(corruption.needs_other_image for corruption in made.values()):
        return ()  # another picture every epoch has other numbers of tokens, and every answer may be cut elsewhere
    return tuple(cell for cell in objective.reference_cells if cell.image not in made)


def choose_reference(policy: Scorer, ref_model: nn.Module | None, args: MDPOConfig, *, is_live: bool) -> LiveReference:
    """Returns the reference of a policy that has not been trained yet.

    It is `ref_model` where one is given; the policy with its adapter off, where the adapter is fresh; a frozen copy,
    where the reference `is_live` while the policy moves; else the policy itself, which is asked before that alone.
    """
    if ref_model is not None:
        build.check_model(ref_model)
        if args.disable_dropout:
            build.disable_dropout(ref_model)
        shares = policy.shares_prefix and policy.family.cannot_share(ref_model) is None
        frozen = replace(policy, model=ref_model.requires_grad_(False).eval(), shares_prefix=shares)
        return FrozenModel(frozen, share_images=False)
    base = unwrap_adapter(policy.model)
    located = policy.family.locate_parts(base)
    moving = {located.part_of(name) for name, parameter in base.named_parameters() if parameter.requires_grad}
    share_images = moving <= {"language_model"}
    if policy.model is not base and is_undone_by_switching_off(policy.model):
        return AdapterOff(policy, share_images)
    if is_live:
        return FrozenModel(replace(policy, model=copy_frozen(policy.model)), share_images)
    return StartOfPolicy(policy)
