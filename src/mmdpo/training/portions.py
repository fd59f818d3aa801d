"""What a dataloader worker does with its part of a stream: batches of good rows, and word of the faulty ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import fsspec  # type: ignore[import-untyped]
from torch.utils.data import IterableDataset, get_worker_info

from mmdpo.data.check import Fault
from mmdpo.data.collate import Batch
from mmdpo.data.items import Item
from mmdpo.data.stream_items import Position, StreamItems
from mmdpo.records import RowError

_MOST_FAULTS = 1000
"""Faulty rows one after the other at which even `on_bad_row: skip` gives up."""


class Portion(NamedTuple):
    """What a worker hands over: a tuple, in which pinning of memory finds the batch."""

    batch: Batch | None
    position: Position
    """Of the reader, behind the rows of the batch."""
    faults: Sequence[Fault] = ()
    failure: RowError | None = None
    """Ends the run: passed on as it is, since PyTorch would wrap its message in a traceback."""


@dataclass
class Portions(IterableDataset[Portion]):
    """What the workers of a process read, of whom batches are taken in turn."""

    items: StreamItems
    collate: Callable[[Sequence[Item]], Batch]
    batch_size: int
    skips: bool
    first_reader: int
    readers: int
    positions: Sequence[Position]
    """Of each of this process's readers."""
    done: int
    """Batches given so far."""

    def __iter__(self) -> Iterator[Portion]:
        worker = get_worker_info()
        if worker is not None:
            # In a fork of a process that has read from the network, its lock would be waited for without end.
            fsspec.asyn.reset_lock()
        # The next batch is of the reader whose turn it is, and PyTorch takes it from the first worker.
        turn = (self.done + (0 if worker is None else worker.id)) % len(self.positions)
        try:
            yield from self._make_portions(turn)
        except RowError as error:
            yield Portion(None, self.positions[turn], failure=error)

    def _make_portions(self, turn: int) -> Iterator[Portion]:
        items: list[Item] = []
        faults: list[Fault] = []
        for item, position in self.items.read(self.first_reader + turn, self.readers, self.positions[turn]):
            if isinstance(item, Item):
                items.append(item)
            else:
                faults.append(item)
            batch = None
            if len(items) == self.batch_size:
                batch, bad = self._collate_good(items)
                faults += bad
                items = [item for item in items if item.example.source not in {fault.source for fault in bad}]
            if faults and not self.skips:
                raise RowError(faults[0].problem, source=faults[0].source)
            if len(faults) >= _MOST_FAULTS:
                raise RowError(
                    f"{len(faults)} faulty rows were met while one batch was made. The last one: {faults[-1].problem}",
                    source=faults[-1].source,
                )
            if batch is not None:
                yield Portion(batch, position, tuple(faults))
                items, faults = [], []

    def _collate_good(self, items: Sequence[Item]) -> tuple[Batch | None, list[Fault]]:
        """Returns the batch of the items, or those among them that cannot be trained on."""
        try:
            return self.collate(items), []
        # Odd rows raise nearly anything, and one of them must not end a run that skips them.
        except Exception as error:
            found = [fault for item in items if (fault := self._try_alone(item)) is not None]
            if not found:
                raise error
            return None, found

    def _try_alone(self, item: Item) -> Fault | None:
        try:
            self.collate([item])
        except RowError as error:
            return self.items.blame(item, error.problem)
        except Exception as error:
            return self.items.blame(item, f"{type(error).__name__}: {error}")
        return None
