"""Builds what a run trains from its options: policy and adapter, collator, and the scorer that a probe allows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import GenerationConfig

from mmdpo.corruption import Corruption
from mmdpo.data.collate import Collator, check_cropping
from mmdpo.data.items import Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family, find_family
from mmdpo.models.seams import attention_of
from mmdpo.models.trained import (
    add_adapter,
    check_adapter,
    count_bits,
    describe_unreached,
    describe_unsaved,
    disable_dropout,
    freeze_parts,
    keep_layout_of_4_bits,
    rest_frozen_modules,
    unwrap_adapter,
)
from mmdpo.objective import Objective
from mmdpo.records import Cell, image_versions
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.logprobs import find_suppressed
from mmdpo.scoring.probe import Probe, ProbeError, probe
from mmdpo.training.config import MDPOConfig

logger = logging.getLogger(__name__)


def prepare_policy(model: Any, family: Family, peft_config: Any, args: MDPOConfig) -> Any:
    """Returns the model as it is trained: adapter added or parts frozen, dropout off.

    An adapter that a user's own PeftModel brings is left as it is. Raises ValueError where both the model and the
    options bring an adapter, for one that cannot be trained, and for quantised weights without one.
    """
    check_adapter(model, peft_config)
    has_adapter = peft_config is not None or unwrap_adapter(model) is not model
    check_quantised(count_bits(unwrap_adapter(model)), args, has_adapter=has_adapter)
    keep_layout_of_4_bits(model)
    if peft_config is not None:
        model = add_adapter(model, family, peft_config, args.trained_parts)
        if (unreached := describe_unreached(model, family, args.trained_parts)) is not None:
            logger.warning("%s", unreached)
    elif not has_adapter:
        freeze_parts(model, family, args.trained_parts)
    elif (unsaved := describe_unsaved(model)) is not None:
        logger.warning("%s", unsaved)
    if args.bf16 or args.fp16:
        # Autocast brings both to 16 bits anyway; casting activations up to the adapters' float32 first is lost work.
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False
    if args.disable_dropout and (changed := disable_dropout(model)):
        logger.info("dropout is off in policy and reference (%d values set to 0)", changed)
    return model


def check_quantised(bits: int | None, args: MDPOConfig, *, has_adapter: bool) -> None:
    """Raises ValueError for quantised weights without an adapter, and for 8 bits with a reference that was cached."""
    if bits is not None and not has_adapter:
        raise ValueError(
            "the weights are quantised (load_in_4bit, load_in_8bit), and quantised weights cannot move: train an "
            "adapter on them with use_peft: true"
        )
    # Which columns of the activations stay in 16 bits depends on all tokens that are computed together.
    if bits == 8 and args.precompute_ref_log_probs:
        raise ValueError(
            "load_in_8bit: a row's log-probabilities depend a little on the rows beside it, so that those which were "
            "scored before training do not fit: set precompute_ref_log_probs: false, or take load_in_4bit"
        )


def build_collator(
    processor: Any, config: Any, args: MDPOConfig, generation_config: GenerationConfig | None = None
) -> Collator:
    """Returns the collator that makes batches of what the objective's cells need, for a model of this configuration.

    A row with a token in an answer that the generation config suppresses is faulty. Raises ValueError where
    `crop_space: processed` cannot crop what the image processor gives.
    """
    if args.crop_space == "processed":
        check_cropping(processor.image_processor)
    own = ("seed", "corruption_draw", "image_terms", "corrupted_images", "crop_space", "max_image_pixels")
    return make_collator(
        processor,
        config,
        args.build_objective(),
        args.build_corruptions(),
        max_length=args.max_length,
        generation_config=generation_config,
        **{name: getattr(args, name) for name in own},
    )


def make_collator(
    processor: Any,
    config: Any,
    objective: Objective,
    corruptions: Mapping[str, Corruption],
    *,
    max_length: int | None = None,
    generation_config: GenerationConfig | None = None,
    **preparing: Any,
) -> Collator:
    """Returns the collator of an objective; `corruptions` make the image versions of its cells, and may be more.

    `preparing` are fields of `Preparer`.
    """
    versions = image_versions(objective.cells)
    prepare = Preparer(
        renderer=Renderer(processor, find_family(config)),
        cells=objective.cells,
        corruptions={name: made for name, made in corruptions.items() if name in versions},
        suppressed=frozenset(find_suppressed(generation_config)),
        comparisons=objective.comparisons,
        needs_rejected_images=objective.needs_rejected_images,
        corrupts_equal_answers_only=objective.corrupts_equal_answers_only,
        **preparing,
    )
    return Collator(prepare, max_length, objective.weight_columns, find_context_length(config), objective.beta_columns)


def find_context_length(config: Any) -> int | None:
    """Returns how many tokens a model reads, None where its configuration does not say it plainly.

    Under scaled rotary positions `max_position_embeddings` may mean the length before or after scaling.
    """
    text = config.get_text_config()
    is_scaled = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default") != "default"
    return None if is_scaled else getattr(text, "max_position_embeddings", None)


def build_scorer(model: nn.Module, family: Family, cells: tuple[Cell, ...], args: MDPOConfig) -> Scorer:
    """Returns the scorer of a model, sharing prompts between cells as `attention` says.

    Raises ValueError where `attention` is `shared` and the model cannot; with `auto` it is scored separately, and one
    line of the log says why.
    """
    why = family.why_separate(model)
    if why is not None and args.attention == "shared":
        raise ValueError(f"attention: shared does not work for this model: {why}; use attention: auto or separate")
    if why is not None and args.attention == "auto":
        logger.warning("attention: separate rows for every cell, which is slower: %s", why)
    shares_prefix = why is None and args.attention != "separate"
    return Scorer(model, family, cells, shares_prefix, args.max_tokens_per_row)


def settle_rows(
    policy: nn.Module, family: Family, collator: Collator, items: Items, args: MDPOConfig, accelerator: Any
) -> tuple[Scorer, Probe]:
    """Returns the policy's scorer, and what the probe found; every process must call it, the policy on its device.

    Raises ProbeError, on every process, where the model scores an answer otherwise beside others than alone. Where it
    cannot be tried, the record of families and decoders says whether rows are shared.
    """
    cells = collator.prepare.cells
    if (skipped := _why_skipped(policy, args, accelerator)) is not None:
        scorer = build_scorer(policy, family, cells, args)
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
        if agreed.distance is not None:
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
