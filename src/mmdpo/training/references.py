"""Which reference a run has, and the pass that scores a dataset with it before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mmdpo.data.items import Items
from mmdpo.examples import Cell
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.reference import AdapterOff, FrozenModel, Reference, copy_frozen
from mmdpo.training import build
from mmdpo.training.config import MDPOConfig


def choose_reference(policy: Scorer, ref_model: nn.Module | None, args: MDPOConfig, *, is_needed: bool) -> Reference:
    """Returns the reference of a policy that has not been trained yet.

    It is `ref_model` where one is given; the policy with its adapter off, where the adapter is fresh; the policy
    itself, where it is only asked before the first step; else a frozen copy.
    """
    if ref_model is not None:
        build.check_model(ref_model)
        if args.disable_dropout:
            build.disable_dropout(ref_model)
        frozen = build.build_scorer(ref_model.requires_grad_(False).eval(), policy.family, policy.collated, args)
        return FrozenModel(frozen, share_images=False)
    base = build.unwrap_adapter(policy.model)
    located = policy.family.locate_parts(base)
    moving = {located.part_of(name) for name, parameter in base.named_parameters() if parameter.requires_grad}
    share_images = moving <= {"language_model"}
    if policy.model is not base and build.is_fresh_adapter(policy.model):
        return AdapterOff(policy, share_images)
    if args.precompute_ref_log_probs or not is_needed:
        return FrozenModel(policy, share_images=False)
    return FrozenModel(replace(policy, model=copy_frozen(policy.model)), share_images)


def score_dataset(
    items: Items,
    reference: Reference,
    cells: tuple[Cell, ...],
    *,
    policy: nn.Module,
    accelerator: Any,
    collate: Callable[..., Any],
    args: MDPOConfig,
) -> None:
    """Scores every example with the reference and leaves the log-probabilities with the items, one column per cell.

    All processes share the work. Raises FloatingPointError, naming the row, for a value that is not finite.
    """
    size = args.precompute_ref_batch_size or args.per_device_train_batch_size
    loader = accelerator.prepare(
        DataLoader(items, batch_size=size, collate_fn=collate, num_workers=args.dataloader_num_workers)
    )
    policy.to(accelerator.device)
    values = torch.full((len(items), len(cells)), float("nan"))
    hidden = args.disable_tqdm or not accelerator.is_local_main_process
    for batch in tqdm(loader, desc="scoring with the reference", disable=hidden):
        with accelerator.autocast():  # the precision that the policy will be scored in
            logprobs = reference(batch, cells, policy=policy, memo={})
        index, columns = accelerator.gather_for_metrics((batch["index"], logprobs.T.contiguous()))
        values[index.cpu()] = columns.float().cpu()
    bad = (~values.isfinite()).any(1).nonzero()[:, 0].tolist()
    if bad:
        source = items.examples[bad[0]].source
        raise FloatingPointError(f"the reference gives no finite log-probability for {source}")
    items.ref_logprobs = values
