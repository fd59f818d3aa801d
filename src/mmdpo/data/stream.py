"""A preference dataset that is read while it is trained on: shards of rows, in Parquet, WebDataset or another form.

Nothing is held but the rows at hand. Images come as the bytes that are stored; who prepares an example decodes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from xxhash import xxh3_128

from mmdpo.data.columns import ID_COLUMNS, read_marks
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.records import PreferenceExample, RowError

HEAD = 64
"""Rows that are looked at before training: their columns decide on the format, and they are tried as training would."""

_ROWS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class PreferenceStream:
    """Rows of a `datasets.IterableDataset`, read shard by shard from any row onwards.

    Made by `from_rows` or by `mmdpo.data.read.read_stream`; travels to workers by pickling.
    """

    name: str
    rows: datasets.IterableDataset
    head: PreferenceDataset
    """The first rows, as a dataset."""
    image_root: Path | None
    shard_names: Sequence[str] | None
    fingerprint: str
    """Digest of the shards' names and the text of the first rows: another one means other data."""

    @classmethod
    def from_rows(
        cls,
        rows: datasets.IterableDataset,
        *,
        name: str = "train",
        format: str = "auto",
        image_root: str | Path | None = None,
        shard_names: Sequence[str] | None = None,
    ) -> PreferenceStream:
        """Wraps a stream, whose first rows are read. Arguments are those of `PreferenceDataset.from_rows`.

        `shard_names` stand in messages. The stream must give the same rows each time it is read: shuffled with a seed,
        or better not at all, since training shuffles.

        Raises RowError where the first shard cannot be read; ValueError where there are no rows, or their columns are
        in no known format.
        """
        rows = rows.with_format(None)
        if rows.features:
            rows = rows.decode(False)
        if shard_names is not None and len(shard_names) != rows.num_shards:
            shard_names = None
        root = None if image_root is None else Path(image_root).expanduser()
        for shard in range(rows.num_shards):
            first = list(islice(_read(rows, shard, 0, _name_shard(name, shard_names, shard)), HEAD))
            if first:
                break
        else:
            raise ValueError(f"{name}: there are no rows")
        head = PreferenceDataset.from_rows(
            first, name=_name_shard(name, shard_names, shard), format=format, image_root=root
        )
        files = None if shard_names is None else [shard.replace("\\", "/").rpartition("/")[2] for shard in shard_names]
        content = json.dumps([rows.num_shards, files, first], default=_describe)
        fingerprint = xxh3_128(content.encode()).hexdigest()
        return cls(name, rows, head, root, shard_names, fingerprint)

    @property
    def num_shards(self) -> int:
        """Parts that can be read independently: files, as a rule."""
        return int(self.rows.num_shards)

    def read(self, shard: int, start: int = 0) -> Iterator[Mapping[str, Any]]:
        """Yields the rows of a shard from a place on. What lies before is read over, and nothing in it decoded.

        Raises RowError where the shard cannot be read; says which, and how far it could.
        """
        return _read(self.rows, shard, start, _name_shard(self.name, self.shard_names, shard))

    def parse(self, row: Mapping[str, Any], shard: int, place: int) -> PreferenceExample:
        """Parses a row. Its id is that of its own columns, else shard and row.

        Raises RowError where the row cannot be read as an example, and names shard and row.
        """
        source = self.source_of(shard, place)
        own = next((row[column] for column in ID_COLUMNS if isinstance(row.get(column), str | int)), None)
        row_id = f"{shard}/{place + 1}" if own is None else str(own)
        try:
            example = self.head.format.parse(row, source=source, image_root=self.image_root, row_id=row_id)
            return read_marks(row, example, self.image_root)
        except RowError as error:
            raise RowError(error.problem, source=error.source or source) from error
        # Rows come unchecked, and a worker that dies of an odd one could not say which.
        except Exception as error:
            raise RowError(f"{type(error).__name__}: {error}", source=source) from error

    def source_of(self, shard: int, place: int) -> str:
        """Returns where a row stands, for messages: `pairs-00003.parquet, row 12`."""
        return f"{_name_shard(self.name, self.shard_names, shard)}, row {place + 1}"


def _read(rows: datasets.IterableDataset, shard: int, start: int, name: str) -> Iterator[dict[str, Any]]:
    part = rows.shard(num_shards=rows.num_shards, index=shard)
    if start:
        part = part.skip(start)
    # In batches, since a plain iteration shares a dataset out among dataloader workers once more.
    batches = part.iter(batch_size=_ROWS_AT_ONCE)
    place = start
    while True:
        try:
            batch = next(batches, None)
        # Readers raise nearly anything on a damaged file, and errors of the network besides.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise RowError(
                f"cannot be read after row {place} ({reason}): fetch it again or leave it out", source=name
            ) from error
        if batch is None:
            return
        for values in zip(*batch.values(), strict=True):
            place += 1
            yield dict(zip(batch, values, strict=True))


def _name_shard(name: str, shard_names: Sequence[str] | None, shard: int) -> str:
    return f"{name}, shard {shard + 1}" if shard_names is None else shard_names[shard]


def _describe(value: Any) -> Any:
    """Returns what of an image, or of another object in a row, is the same in every process."""
    return len(value) if isinstance(value, bytes) else type(value).__name__
