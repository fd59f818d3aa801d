"""What each reader of a stream reads, in which order, and how it resumes exactly where it stopped.

A *reader* is a dataloader worker of a process. Every epoch the shards are put into an order that the seed and the epoch
alone decide, and shared out among the readers of all processes. A reader reads its shards one after the other and
shuffles within *blocks* of so many rows: each is read whole and given in a random order before the next one begins. So
a position is the first row of a block and the number of its rows that were taken; to resume there, the block is read
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from mmdpo.data.faults import Fault
from mmdpo.data.items import Item, Items, Pictures
from mmdpo.data.stream import PreferenceStream
from mmdpo.records import ImageSource, PreferenceExample, RowError, derive_generator

_SHARD_BITS = 32
"""An item's index holds the place in the shard in its lower bits, the shard above."""
_PLACE = (1 << _SHARD_BITS) - 1
_MOST_EMPTY_PASSES = 10


@dataclass(frozen=True)
class Position:
    """How far a reader has come."""

    epoch: int = 0
    part: int = 0
    """Shards of the epoch that it had read when its block began."""
    row: int = 0
    """Place in its shard at which the block begins."""
    taken: int = 0
    """Rows of the block that it has given."""


@dataclass(frozen=True)
class _Part:
    """A shard, or every n-th row of one that n readers share."""

    shard: int
    every: int = 1
    first: int = 0


@dataclass(frozen=True)
class _Row:
    content: Any
    shard: int
    place: int
    start: Position
    """The position at which a block begins with this row."""


@dataclass(frozen=True)
class StreamItems:
    """The items of a stream. It has no end: after the last row of an epoch comes the first one of the next."""

    stream: PreferenceStream
    seed: int
    """Of whatever is drawn for an example."""
    order_seed: int
    """Of the order of shards and rows."""
    block_size: int
    draw_others: bool = False
    per_epoch: bool = False

    def read(self, reader: int, readers: int, start: Position = Position()) -> Iterator[tuple[Item | Fault, Position]]:
        """Yields what one of the readers reads from a position on: items or faulty rows, and the positions after them.

        Raises RowError where a shard cannot be read, or there is no row for this reader.
        """
        rows, position = self._read_rows(reader, readers, start), start
        while True:
            block = list(islice(rows, self.block_size))
            pictures = Pictures(map(self._images_of, block)) if self.draw_others else None
            # Where a block holds the end of an epoch and the beginning of the next, the end comes first.
            order = sorted(self._shuffle(reader, block), key=lambda place: block[place].start.epoch)
            last = block[-1].start
            for taken in range(position.taken, len(block)):
                is_last = taken + 1 == len(block)
                position = replace(last, row=last.row + 1) if is_last else replace(position, taken=taken + 1)
                yield self._make_item(block, order[taken], pictures), position

    def head(self) -> Items:
        """Returns the first rows as items."""
        own = dict(seed=self.seed, draw_others=self.draw_others, per_epoch=self.per_epoch)
        return Items(self.stream.head, **own)  # type: ignore[arg-type]

    def source_of(self, index: int) -> str:
        """Returns where the row with an item's index stands, for messages."""
        return self.stream.source_of(index >> _SHARD_BITS, index & _PLACE)

    def blame(self, item: Item, problem: str) -> Fault:
        """Returns the fault of the row that an item was read from."""
        return Fault((item.index & _PLACE) + 1, item.example.source, problem)

    def _share(self, reader: int, readers: int, epoch: int) -> list[_Part]:
        shards = self.stream.num_shards
        order = derive_generator(self.order_seed, "", "order of shards", epoch).permutation(shards).tolist()
        if shards >= readers:
            return [_Part(shard) for shard in order[reader::readers]]
        place = reader % shards
        return [_Part(order[place], every=len(range(place, readers, shards)), first=reader // shards)]

    def _read_rows(self, reader: int, readers: int, start: Position) -> Iterator[_Row]:
        part, skipped, empty_passes = start.part, start.row, 0
        for epoch in count(start.epoch):
            parts = self._share(reader, readers, epoch)
            is_empty = (part, skipped) == (0, 0)
            for number, mine in enumerate(parts[part:], start=part):
                for place, content in enumerate(self.stream.read(mine.shard, skipped), start=skipped):
                    if place % mine.every == mine.first:
                        is_empty = False
                        yield _Row(content, mine.shard, place, Position(epoch, number, place))
                skipped = 0
            part = 0
            empty_passes = empty_passes + 1 if is_empty else 0
            if empty_passes == _MOST_EMPTY_PASSES:
                raise RowError(
                    f"reader {reader + 1} of {readers} finds no row in {empty_passes} passes over the data: lower "
                    "dataloader_num_workers or the number of processes, or leave out empty shards",
                    source=self.stream.name,
                )

    def _shuffle(self, reader: int, block: Sequence[_Row]) -> list[int]:
        start = block[0].start
        generator = derive_generator(
            self.order_seed, f"{reader}/{start.part}/{start.row}", "order of rows", start.epoch
        )
        order: list[int] = generator.permutation(len(block)).tolist()
        return order

    def _make_item(self, block: Sequence[_Row], place: int, pictures: Pictures | None) -> Item | Fault:
        row = block[place]
        epoch = row.start.epoch if self.per_epoch else 0
        try:
            example = self.stream.parse(row.content, row.shard, row.place)
            others = () if pictures is None else self._draw_others(example, block, place, pictures, epoch)
        except RowError as error:
            return Fault(row.place + 1, error.source, error.problem)
        return Item(example, (row.shard << _SHARD_BITS) + row.place, epoch=epoch, other_images=others)

    def _images_of(self, row: _Row) -> tuple[ImageSource, ...]:
        try:
            return self.stream.parse(row.content, row.shard, row.place).images
        except RowError:
            return ()  # said when it is this row's turn

    def _draw_others(
        self, example: PreferenceExample, block: Sequence[_Row], place: int, pictures: Pictures, epoch: int
    ) -> tuple[ImageSource, ...]:
        drawn = pictures.draw_others(place, derive_generator(self.seed, example.id, "other example", epoch))
        if drawn is None:
            raise RowError(
                f"random_image takes the picture of another of the {len(block)} examples in the shuffle buffer, and "
                "none has a different one: raise shuffle_buffer_size",
                source=example.source,
            )
        return tuple(self._images_of(block[row])[which] for row, which in drawn)
