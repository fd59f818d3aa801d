"""Which numbers an option may have, each declared once and checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds, which belong to it unless it is open there."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    is_whole: bool = False
    besides: tuple[float, ...] = ()
    """Values outside the bounds that have a meaning of their own."""
    takes_none: bool = False
    remedy: str = ""
    """What to write instead, where a value outside is likely meant to say something."""

    def holds(self, value: Any) -> bool:
        """Says whether a value is one of these numbers."""
        if value is None:
            return self.takes_none
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if value in self.besides:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (not self.is_whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        if self.high < math.inf:
            brackets = "(" if self.open_low else "[", ")" if self.open_high else "]"
            said = f"{kind} in {brackets[0]}{self.low:g}, {self.high:.10g}{brackets[1]}"
        else:
            said = f"{kind} {'above' if self.open_low else 'of at least'} {self.low:g}"
        return " or ".join([said, *(f"{value:g}" for value in self.besides)])


def _or_none(numbers: Range) -> Range:
    return replace(numbers, takes_none=True)


POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
COUNT = Range(1, is_whole=True)
COUNT_FROM_0 = Range(0, is_whole=True)
SHARE_BELOW_1 = Range(0, 1, open_high=True)
SEED = Range(0, 2**32 - 1, is_whole=True)

RANGES: Mapping[str, Range] = {
    # The length of the run
    "max_steps": replace(COUNT, besides=(-1,), remedy="-1 trains for num_train_epochs"),
    "num_train_epochs": POSITIVE,
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    # The optimizer
    "learning_rate": NOT_NEGATIVE,  # 0 moves nothing, which shows what else does
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": SHARE_BELOW_1,
    "adam_beta2": SHARE_BELOW_1,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": _or_none(NOT_NEGATIVE),
    # Intervals
    "logging_steps": replace(POSITIVE, remedy="logging_strategy: no logs nothing"),
    "eval_steps": _or_none(NOT_NEGATIVE),  # 0 is transformers' way to say: as logging_steps
    "save_steps": replace(POSITIVE, remedy="save_strategy: no saves no checkpoints"),
    "save_total_limit": _or_none(COUNT_FROM_0),
    "eval_delay": NOT_NEGATIVE,
    "eval_accumulation_steps": _or_none(COUNT),
    "torch_empty_cache_steps": _or_none(COUNT),
    "sample_answers_steps": _or_none(COUNT_FROM_0),
    "sample_answers": COUNT,
    # Processes, workers and chance
    "seed": SEED,
    "data_seed": _or_none(SEED),
    "dataloader_num_workers": COUNT_FROM_0,
    "dataloader_prefetch_factor": _or_none(COUNT),
    "dataset_num_proc": _or_none(COUNT),
    "ddp_bucket_cap_mb": _or_none(COUNT),
    "ddp_timeout": COUNT,
    # The objective
    "beta": Range(0, 1e6, open_low=True, remedy="usual values lie between 0.01 and 10"),
    "label_smoothing": Range(0, 0.5, open_high=True),
    # The data
    "max_length": replace(COUNT, low=2, takes_none=True, remedy="it has to leave room for a prompt and an answer"),
    "max_tokens_per_row": _or_none(COUNT),
    "max_image_pixels": COUNT,
    "eval_stream_rows": COUNT,
    "shuffle_buffer_size": _or_none(COUNT),
    "test_split_size": Range(0, 1, open_low=True, open_high=True, takes_none=True),
    "precompute_ref_batch_size": _or_none(COUNT),
    # The adapter (TRL's ModelConfig)
    "lora_r": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": SHARE_BELOW_1,
}


def check_ranges(options: Any) -> None:
    """Raises ValueError for a numeric option out of its range; `options` is a dataclass with some of them."""
    for name, numbers in RANGES.items():
        if hasattr(options, name) and not numbers.holds(value := getattr(options, name)):
            remedy = f" ({numbers.remedy})" if numbers.remedy else ""
            raise ValueError(f"{name} must be {numbers}; got {value!r}{remedy}")
