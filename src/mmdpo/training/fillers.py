"""Fillers: rows that only fill up an epoch's last batch, so that every process takes the same steps.

Without them accelerate and Trainer repeat rows there, and a run on several processes weighs these rows twice. A filler
is scored like any other row, since no process may miss a forward, and its pair counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler

from mmdpo.data.items import Filler
from mmdpo.training.config import MDPOConfig


class FilledSampler(Sampler[int]):
    """The places of another sampler, and fillers behind them up to a multiple of what all processes take at once."""

    def __init__(self, sampler: Any, multiple: int) -> None:
        self.sampler = sampler
        self.multiple = multiple

    def __iter__(self) -> Iterator[int]:
        place = 0
        for place in self.sampler:
            yield place
        for _ in range(len(self) - len(self.sampler)):
            yield Filler(place)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on, to a sampler that asks for it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class GroupedByLength(LengthGroupedSampler):
    """Trainer's sampler that batches rows of like length, in an order that the seed and the epoch alone decide.

    Trainer's own draws from the generator that everything else draws from: processes, and a run that is resumed, go the
    same way only as long as nothing else has drawn differently. `batch_size` counts the rows of a step on all
    processes, so that the order does not depend on how many there are.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        places: Iterator[int] = super().__iter__()
        return places

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's order."""
        self.epoch = epoch


class Rebalanced(BatchRebalanceSampler):
    """Trainer's sampler that balances the cost of micro-batches, whose repeated rows are fillers."""

    def __iter__(self) -> Iterator[list[int]]:
        self._steps_left = self.num_global_batches
        yield from super().__iter__()

    def _assign(self, indices: list[int], lengths: list[int]) -> Any:
        # Called once a step; a last one that is too small for all its micro-batches has repeated rows at its end.
        self._steps_left -= 1
        if self.has_tail and self._steps_left == 0:
            indices = indices[: self.remainder] + [Filler(place) for place in indices[self.remainder :]]
        return super()._assign(indices, lengths)


def build_sampler_by_length(args: MDPOConfig, lengths: Sequence[int]) -> GroupedByLength | Rebalanced:
    """Returns the sampler of a `train_sampling_strategy` that goes by length, for this process."""
    per_process = args.train_batch_size * args.gradient_accumulation_steps
    size = per_process * args.world_size
    if args.train_sampling_strategy == "group_by_length":
        return GroupedByLength(size, lengths, args.seed if args.data_seed is None else args.data_seed)
    return Rebalanced(
        lengths=list(lengths),
        effective_batch_size=size,
        dp_size=args.world_size,
        grad_accum=args.gradient_accumulation_steps,
        rank=args.process_index,
        drop_last=args.dataloader_drop_last,
    )


def fill_last_batch(dataloader: Any) -> None:
    """Lets a dataloader that accelerate has prepared for several processes end with fillers, not with repeated rows."""
    shard = dataloader.batch_sampler
    # Rebalanced shares rows out itself, and Trainer has set the number of processes to 1 for it.
    if isinstance(shard, BatchSamplerShard) and shard.num_processes > 1 and not shard.drop_last:
        dataloader.set_sampler(FilledSampler(shard.batch_sampler.sampler, dataloader.total_batch_size))
