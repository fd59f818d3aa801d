"""What a dataloader worker reads of a stream: batches of good rows, and the faults of the others."""

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
"""Faulty rows in a single batch at which even `on_bad_row: skip` gives up."""


class ReadBatch(NamedTuple):
    """What a worker hands over: a tuple, in which pinning of memory finds the batch."""

    batch: Batch | None
    position: Position
    """Of the reader, after the rows of the batch."""
    faults: Sequence[Fault] = ()
    failure: RowError | None = None
    """Ends the run: handed over as it is, since PyTorch would wrap its message in a traceback."""


@dataclass
class Reader(IterableDataset[ReadBatch]):
    """What the workers of a process read; batches are taken from them in turn."""

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

    def __iter__(self) -> Iterator[ReadBatch]:
        worker = get_worker_info()
        if worker is not None:
            # A fork of a process that has read from the network would wait for that process's lock without end.
            fsspec.asyn.reset_lock()
        # PyTorch takes the next batch from the first worker, and it is the turn of another reader after resuming.
        turn = (self.done + (0 if worker is None else worker.id)) % len(self.positions)
        try:
            yield from self._make_batches(turn)
        except RowError as error:
            yield ReadBatch(None, self.positions[turn], failure=error)

    def _make_batches(self, turn: int) -> Iterator[ReadBatch]:
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
                    f"{len(faults)} faulty rows were read while one batch was made. The last one: {faults[-1].problem}",
                    source=faults[-1].source,
                )
            if batch is not None:
                yield ReadBatch(batch, position, tuple(faults))
                items, faults = [], []

    def _collate_good(self, items: Sequence[Item]) -> tuple[Batch | None, list[Fault]]:
        """Returns the batch of the items, or those among them that cannot be trained on."""
        try:
            return self.collate(items), []
        # Odd rows raise nearly anything, and must not end a run that skips them.
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
