"""Which references the engines that spread a model over processes can score, asked before one fails or misleads."""

from __future__ import annotations

from typing import Any

from mmdpo.scoring.reference import FrozenModel, LiveReference


def check_engine(accelerator: Any, reference: LiveReference, *, is_cached: bool, is_live: bool) -> None:
    """Raises ValueError, saying what to change, where the run's engine cannot score the run's references.

    `is_cached` and `is_live` say whether cells are scored before training, and while the policy moves; there may be
    both.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        if is_live and isinstance(reference, FrozenModel):
            raise ValueError(
                "DeepSpeed ZeRO-3 partitions the policy alone, and a second model beside it cannot be scored: train an "
                "adapter, whose reference is the policy without it, set precompute_ref_log_probs: true, or take FSDP2 "
                "or ZeRO-2"
            )
        if is_cached and any(hasattr(parameter, "ds_id") for parameter in reference.scorer.model.parameters()):
            raise ValueError(
                "precompute_ref_log_probs: DeepSpeed has partitioned the weights while they were loaded, and the pass "
                "before training needs them whole: set zero3_init_flag: false in the configuration of accelerate, or "
                "train an adapter with precompute_ref_log_probs: false"
            )
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None and fsdp.cpu_ram_efficient_loading and is_cached:
        raise ValueError(
            "precompute_ref_log_probs: with cpu_ram_efficient_loading the first process alone has the weights before "
            "training, and the pass needs them in all: turn one of the two off"
        )
