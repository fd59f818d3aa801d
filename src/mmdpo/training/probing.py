"""How a run scores its rows: what a probe finds on the run's own model and data, agreed upon by all processes."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.models.adapters import count_bits, unwrap_adapter
from mmdpo.models.families import Family, attention_of
from mmdpo.models.parts import rest_frozen_modules
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import Probe, ProbeError, probe
from mmdpo.training import build
from mmdpo.training.config import MDPOConfig

logger = logging.getLogger(__name__)


def settle_rows(
    policy: nn.Module, family: Family, collator: Collator, items: Items, args: MDPOConfig, accelerator: Any
) -> tuple[Scorer, Probe]:
    """Returns the policy's scorer, and what the probe found; every process must call it, the policy on its device.

    Raises ProbeError, on every process, where the model scores an answer otherwise beside others than alone. Where it
    cannot be tried, the record of families and decoders says whether rows are shared.
    """
    cells = collator.prepare.cells
    if (skipped := _why_skipped(policy, args, accelerator)) is not None:
        scorer = build.build_scorer(policy, family, cells, args)
        if args.probe:
            logger.warning("the model's scoring was not tried before training: %s", skipped)
        return scorer, Probe("shared" if scorer.shares_prefix else "separate", skipped)
    decoder = unwrap_adapter(policy).get_decoder()
    before = attention_of(decoder)
    scorer = Scorer(policy, family, cells, False, args.max_tokens_per_row)
    found: Probe | str
    try:
        scorer, found = _probe_as_trained(scorer, collator, items, args, accelerator)
    except ProbeError as error:
        found = str(error)
    by_process: list[Any] = gather_object([found]) if accelerator.num_processes > 1 else [found]
    for problem in by_process:
        if isinstance(problem, str):
            raise ProbeError(problem)
    agreed: Any = next((other for other in by_process if other.rows == "separate"), by_process[0])
    if scorer.shares_prefix and agreed.rows == "separate":
        decoder.set_attn_implementation(before)
        scorer = replace(scorer, shares_prefix=False)
    if accelerator.is_main_process:
        if agreed.why_separate is not None:
            logger.warning("attention: separate rows for every cell, which is slower: %s", agreed.why_separate)
        logger.info("%s rows score as plain forwards do, within %.2g nats a token", agreed.rows, agreed.distance)
    return scorer, agreed


def _why_skipped(policy: nn.Module, args: MDPOConfig, accelerator: Any) -> str | None:
    if not args.probe:
        return "probe: false"
    if str(accelerator.distributed_type.value) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        return f"{accelerator.distributed_type.value} spreads it over processes, and no process has it whole"
    if count_bits(unwrap_adapter(policy)) == 8:
        return "load_in_8bit: what is rounded depends on all tokens that are computed together"
    return None


def _probe_as_trained(
    scorer: Scorer, collator: Collator, items: Items, args: MDPOConfig, accelerator: Any
) -> tuple[Scorer, Probe]:
    """Probes in the mode and the precision of training; what can be compared in float32 is, since it says more."""
    model, was_training = scorer.model, scorer.model.training
    model.train(args.disable_dropout)  # dropout that is wanted differs from forward to forward
    if args.disable_dropout:
        rest_frozen_modules(model, scorer.family)
    is_precise = all(p.dtype == torch.float32 for p in model.parameters()) and "flash" not in attention_of(model)
    try:
        with nullcontext() if is_precise else accelerator.autocast():
            return probe(scorer, collator, items, attention=args.attention, device=accelerator.device)
    finally:
        model.train(was_training)
