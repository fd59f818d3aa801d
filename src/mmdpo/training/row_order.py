"""RowOrderTrainer: which rows the processes of a run are given, and in which order.

The last batch of an epoch may be too small for all processes. accelerate and Trainer fill it with repeated rows, and a
run on several processes would weigh these rows twice. Here it is filled with *padding rows*: a padding row is scored
like any other, since no process may miss a forward, and its pair counts for nothing in the loss.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices
from transformers.trainer_utils import seed_worker

from mmdpo.data.items import Items, PaddingRow
from mmdpo.data.stream_items import StreamItems
from mmdpo.models.seams import train_batch_size_of
from mmdpo.training.durable.durable_trainer import DurableTrainer
from mmdpo.training.durable.resume import SKIPPED_ROWS
from mmdpo.training.stopping import outlive_sigterm
from mmdpo.training.streams import SkippedRows, StreamLoader

logger = logging.getLogger(__name__)

Order: TypeAlias = Callable[[torch.Generator], Sequence[int]]
"""Returns the places of all rows in the order that a generator decides, which is seeded for each epoch."""


class RowOrder(Sampler[int]):
    """The places of an epoch's rows, then padding rows up to a multiple of what all processes take at once."""

    def __init__(self, count: int, order: Order | None = None, *, seed: int = 0, multiple: int = 1) -> None:
        """Without an `order` of all `count` places they stay as they are."""
        self.count, self.order, self.seed, self.multiple = count, order, seed, multiple
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        places = range(self.count) if self.order is None else self.order(generator)
        yield from places
        for _ in range(len(self) - self.count):
            yield PaddingRow(places[-1])

    def __len__(self) -> int:
        return -(-self.count // self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next."""
        self.epoch = epoch


def order_by_picture(pictures: Sequence[tuple[int, ...]], batch_size: int, generator: torch.Generator) -> list[int]:
    """Returns the places of rows in an order whose batches hold rows that show the same pictures, as far as they can.

    Rows of a picture are shuffled and cut into parts of a batch at most. Parts are laid into batches, longest first,
    each into the fullest one with room for it; what is in no full batch then makes up batches as it comes.
    """
    groups: dict[Any, list[int]] = {}
    for place in torch.randperm(len(pictures), generator=generator).tolist():
        groups.setdefault(pictures[place] or ("no picture", place), []).append(place)
    parts = [rows[n : n + batch_size] for rows in groups.values() for n in range(0, len(rows), batch_size)]
    with_room: list[list[list[int]]] = [[] for _ in range(batch_size + 1)]  # batches, by the rows that they still take
    shuffled = [parts[number] for number in torch.randperm(len(parts), generator=generator).tolist()]
    for part in sorted(shuffled, key=len, reverse=True):
        room = next((room for room in range(len(part), batch_size + 1) if with_room[room]), None)
        batch = [] if room is None else with_room[room].pop(0)
        batch += part
        with_room[batch_size - len(batch)].append(batch)
    rest = [place for room in with_room[1:] for batch in room for place in batch]
    batches = [*with_room[0], *(rest[n : n + batch_size] for n in range(0, len(rest), batch_size))]
    whole = len(pictures) // batch_size  # the last one, which may be smaller, stays where it is
    order = [*torch.randperm(whole, generator=generator).tolist(), *range(whole, len(batches))]
    return [place for number in order for place in batches[number]]


class RebalancedBatches(BatchRebalanceSampler):
    """Batches of about equal cost, as Trainer's `batch_rebalance` makes them, for all processes in turn.

    A step's batches are sorted by cost, so that the processes, which take them in turn, have about equal ones. Rows
    that repeat an earlier one of the epoch are padding rows.
    """

    def __init__(
        self, lengths: Sequence[int], step_size: int, batches_per_step: int, *, drop_last: bool, seed: int = 0
    ) -> None:
        how: dict[str, Any] = dict(dp_size=1, grad_accum=batches_per_step, drop_last=drop_last, seed=seed)
        super().__init__(list(lengths), step_size, **how)

    def __iter__(self) -> Iterator[list[int]]:
        seen: set[int] = set()
        for batch in super().__iter__():
            marked = []
            for place in batch:
                marked.append(PaddingRow(place) if place in seen else place)
                seen.add(place)
            yield marked


class RowOrderTrainer(DurableTrainer):
    """Trainer that gives rows in the order of seed and epoch alone, and reads streams; `train_dataset` has the items.

    The order depends neither on the number of processes nor on what else draws random numbers, so that a resumed run
    goes the same way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: RowOrder | RebalancedBatches | None = None
        """The order of the training rows; None for a stream."""
        self._eval_loaders: dict[int, Any] = {}
        self.add_callback(SetEpoch(self))

    def get_train_dataloader(self) -> Any:
        """Returns the batches of this process; those of a stream begin where the resumed checkpoint ends."""
        args, items = self.args, self.train_dataset
        if isinstance(items, StreamItems):
            skipped = SkippedRows(Path(args.output_dir) / SKIPPED_ROWS)
            self._stream = StreamLoader(items, self.data_collator, args, train_batch_size_of(self), skipped)
            self._stream.check_agreement()
            if self.resumed_from is not None:
                self._stream.load(self.resumed_from)
            return self._stream
        start_worker = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index)
        step_batches = args.gradient_accumulation_steps * args.world_size
        step_size = train_batch_size_of(self) * step_batches
        if args.train_sampling_strategy == "batch_rebalance":
            how: dict[str, Any] = dict(drop_last=args.dataloader_drop_last, seed=self._order_seed)
            self.rows = RebalancedBatches(items.lengths, step_size, step_batches, **how)
            return self._load(items, start_worker, batch_sampler=self.rows)
        orders: dict[str, Order] = {
            "random": lambda generator: torch.randperm(len(items), generator=generator).tolist(),
            "group_by_length": lambda generator: get_length_grouped_indices(items.lengths, step_size, None, generator),
        }
        order = orders.get(args.train_sampling_strategy)  # none for `sequential`
        if args.train_sampling_strategy == "group_by_image":
            order = self._group_by_image(items, train_batch_size_of(self))
        options = self._order_rows(items, train_batch_size_of(self), order, drop_last=args.dataloader_drop_last)
        self.rows = options["sampler"]
        return self._load(items, start_worker, **options)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Returns the batches of this process, rows in the order of the dataset."""
        if isinstance(eval_dataset, str) or eval_dataset is None:
            eval_dataset = self.eval_dataset if eval_dataset is None else self.eval_dataset[eval_dataset]
        kept = self._eval_loaders.get(id(eval_dataset))
        if kept is not None:
            return kept
        # All of them: what is measured must not depend on the size of a batch.
        options = self._order_rows(eval_dataset, self.args.eval_batch_size, None, drop_last=False)
        loader = self._load(eval_dataset, None, **options)
        if self.args.dataloader_persistent_workers:
            self._eval_loaders[id(eval_dataset)] = loader
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Returns what `get_eval_dataloader` does."""
        return self.get_eval_dataloader(test_dataset)

    def save_position(self, checkpoint: Path) -> None:
        """Writes the position of this process in a stream; a dataset is skipped into by Trainer."""
        if isinstance(self.train_dataset, StreamItems):
            self._stream.save(checkpoint)

    @property
    def _order_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def _group_by_image(self, items: Items, batch_size: int) -> Order:
        pictures = items.list_pictures()
        counts = Counter(shown for shown in pictures if shown)
        most = max(counts.values(), default=1)
        if most == 1:
            logger.warning("group_by_image: no two rows show the same picture, so that their order is random")
        else:
            logger.info(
                "group_by_image: %d rows show %d pictures, a picture up to %d rows; up to %d rows with one picture are "
                "in a micro-batch, so that a step sees fewer pictures than at random",
                *(len(pictures), len(counts), most, min(most, batch_size)),
            )
        return partial(order_by_picture, pictures, batch_size)

    def _order_rows(self, items: Items, batch_size: int, order: Order | None, *, drop_last: bool) -> dict[str, Any]:
        """Returns the arguments of a DataLoader that say which rows a batch has."""
        args, multiple = self.args, 1
        if args.world_size > 1 and not drop_last:
            multiple = batch_size * (1 if args.accelerator_config.split_batches else args.world_size)
        rows = RowOrder(len(items), order, seed=self._order_seed, multiple=multiple)
        return {"sampler": rows, "batch_size": batch_size, "drop_last": drop_last}

    def _load(self, items: Items, start_worker: Any, **options: Any) -> Any:
        args = self.args
        loader = DataLoader(
            items,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            worker_init_fn=outlive_sigterm(start_worker),
            **options,
        )
        return self.accelerator.prepare(loader)


class SetEpoch(TrainerCallback):
    """Sets the epoch of rows and corruptions, or of a stream the share of the run that is done.

    accelerate passes the epoch on only where no wrapper hides the sampler, as one does after resuming; and then Trainer
    counts the epochs of a stream from zero.
    """

    def __init__(self, trainer: RowOrderTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets it before the first batch of the epoch is fetched."""
        if self.trainer.rows is not None:
            epoch = int((state.epoch or 0) + 1e-6)
            self.trainer.rows.set_epoch(epoch)
            self.trainer.train_dataset.set_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts the epochs of a stream as for a run that was not interrupted."""
        if self.trainer.rows is None:
            state.epoch = state.global_step / state.max_steps
