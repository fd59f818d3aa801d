"""A preference dataset: rows in some format, read into `PreferenceExample` one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, overload

import datasets
import pandas  # type: ignore[import-untyped]

from mmdpo.data.columns import ID_COLUMNS, read_marks
from mmdpo.data.formats import Format, detect, load
from mmdpo.records import PreferenceExample, RowError, named_source


class ArrowRows:
    """A sequence of rows over a `datasets.Dataset`, whatever format the dataset was set to.

    Images, and everything else that `datasets` would decode, come as the mapping of `bytes` and `path` that is stored,
    at any depth. A broken image is then an error of its row, raised where images are opened, and reading a row costs no
    decoding. (Casting the columns would do the same, but copies every table in which the images are in lists.)
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset.with_format("arrow")
        self._features = datasets.Features({name: _undecoded(feature) for name, feature in dataset.features.items()})

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the row at a position from 0."""
        table = self._dataset[index]
        row: dict[str, Any] = self._features.decode_example(table.to_pylist()[0])
        return row

    def column(self, name: str) -> list[Any] | None:
        """Returns a column without touching the others, None where there is no such column."""
        if name not in self._dataset.column_names:
            return None
        values: list[Any] = self._dataset.select_columns([name])[:].column(name).to_pylist()
        return values


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _undecoded(entry) for name, entry in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=_undecoded(feature.feature))
    # Json is stored as text, which nobody reads but the feature itself; media can wait.
    if hasattr(feature, "decode") and type(feature).__name__ != "Json":
        return replace(feature, decode=False)
    return feature


_ROWS_LOOKED_AT = 32
"""The format is decided on the first row; what it lacks is taken from these."""


class RowSource(Protocol):
    """Anything with a length that gives a mapping for a position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class PreferenceDataset(Sequence[PreferenceExample]):
    """A map-style sequence of `PreferenceExample`, parsed when asked for; travels to workers by pickling.

    Made by `from_rows` or by `mmdpo.data.read.read_dataset`. Parsing does not judge: `validate_example` does.
    """

    def __init__(
        self,
        rows: RowSource,
        format: Format,
        *,
        name: str,
        image_root: Path | None,
        ids: Sequence[str] | None,
        positions: Sequence[int],
    ) -> None:
        self.name = name
        self.format = format
        self._rows = rows
        self.image_root = image_root
        """Folder that relative image paths start from, None for the one where the program runs."""
        self._ids = ids
        self.id_problem: str | None = None
        """Why rows go by their numbers although there is a column of ids."""
        self._positions = positions

    @classmethod
    def from_rows(
        cls,
        rows: Any,
        *,
        name: str = "train",
        format: str = "auto",
        image_root: str | Path | None = None,
    ) -> PreferenceDataset:
        """Wraps the rows of a `datasets.Dataset`, any sequence of mappings, a mapping of columns, or a DataFrame.

        `name` stands in messages, `format` is a file of `mmdpo.data.formats` or `auto`, and relative image paths are
        joined to `image_root` (else they are relative to where the program runs). Ids come from the first of the
        columns `id`, `idx`, `question_id` that is complete and without repeats, else they are row numbers, from 1.

        Raises ValueError where there are no rows, they cannot be counted, or their columns are in no known format;
        TypeError where there are several datasets (splits) where one is needed, or text instead of rows.
        """
        rows = _as_rows(rows, name)
        if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
            raise ValueError(f"{name}: {type(rows).__name__} cannot be indexed: load the dataset without streaming")
        # A transform that the caller has set makes the rows what they are, so it must run; any other format need not.
        if isinstance(rows, datasets.Dataset) and rows.format["type"] != "custom":
            rows = ArrowRows(rows)
        if len(rows) == 0:
            raise ValueError(f"{name}: there are no rows")
        try:
            found = detect(_sample_row(rows, name)) if format == "auto" else load(format)
        except ValueError as error:
            raise error if isinstance(error, RowError) else ValueError(f"{name}: {error}") from error
        root = None if image_root is None else Path(image_root).expanduser()
        ids, problem = _find_ids(rows)
        dataset = cls(rows, found, name=name, image_root=root, ids=ids, positions=range(len(rows)))
        dataset.id_problem = problem
        return dataset

    def __repr__(self) -> str:
        return f"PreferenceDataset({self.name!r}, {len(self):,} rows, format {self.format.name})"

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> PreferenceExample: ...

    @overload
    def __getitem__(self, index: slice) -> PreferenceDataset: ...

    def __getitem__(self, index: int | slice) -> PreferenceExample | PreferenceDataset:
        """Parses one row, or selects a range of them.

        Raises RowError where the row cannot be read as an example, and names it.
        """
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._parse(index)[0]

    def read_pairs(self, index: int) -> list[PreferenceExample]:
        """Returns every pair of a row that holds several answers, and the one pair of any other.

        Raises RowError as `[index]`.
        """
        return self._parse(index, self.format.parse_all)

    def _parse(
        self, index: int, parse_all: Callable[..., Iterable[PreferenceExample]] | None = None
    ) -> list[PreferenceExample]:
        position = self._positions[index]
        source = self.source_of(index)
        row = self._rows[position]
        _check_row(row, source)
        row_id = str(position + 1) if self._ids is None else self._ids[position]
        given: dict[str, Any] = {"source": source, "image_root": self.image_root, "row_id": row_id}
        with named_source(source):
            try:
                found: list[Any] = list(parse_all(row, **given)) if parse_all else [self.format.parse(row, **given)]
                for example in found:
                    if not isinstance(example, PreferenceExample):
                        kind = type(example).__name__
                        raise RowError(
                            f"the format {self.format.name} has made a {kind} of it, not a PreferenceExample"
                        )
                return [read_marks(row, example, self.image_root) for example in found]
            except RecursionError as error:
                raise RowError("a value is nested too deep to be read: mend or remove the row") from error

    def __iter__(self) -> Iterator[PreferenceExample]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Iterable[int]) -> PreferenceDataset:
        """Returns the examples at these positions, which keep their ids and their row numbers."""
        return self._at([self._positions[index] for index in indices])

    def whole(self) -> PreferenceDataset:
        """Returns all examples of the source, those too that were not selected."""
        return self._at(range(len(self._rows)))

    def _at(self, positions: Sequence[int]) -> PreferenceDataset:
        found = copy.copy(self)
        found._positions = positions
        return found

    def raw(self, index: int) -> Any:
        """Returns a row as it stands in its file; of a faulty one, whatever that is."""
        return self._rows[self._positions[index]]

    def column(self, name: str) -> list[Any] | None:
        """Returns what a column holds for each example, without opening others; None where there is no such column."""
        values = _column(self._rows, name)
        return None if values is None else [values[position] for position in self._positions]

    def row_of(self, index: int) -> int:
        """Returns the number, from 1, of the row that an example was read from."""
        return self._positions[index] + 1

    def source_of(self, index: int) -> str:
        """Returns where an example was read from, for messages: `pairs.json, row 12`."""
        return f"{self.name}, row {self.row_of(index)}"


def _as_rows(rows: Any, name: str) -> Any:
    """Turns a table into rows. Raises TypeError, saying what to give, for what is neither."""
    if isinstance(rows, pandas.DataFrame):
        return rows.astype(object).where(rows.notna(), None).to_dict("records")
    if not isinstance(rows, Mapping):
        return rows
    if rows and all(isinstance(column, list | tuple) for column in rows.values()):
        lengths = {column: len(values) for column, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{name}: the columns have different lengths ({lengths}): give as many values in each")
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    kind, keys = type(rows).__name__, ", ".join(map(str, rows))
    raise TypeError(
        f"{name} is a {kind} of {keys:.200}: give one datasets.Dataset, such as {name}[{next(iter(rows), 'train')!r}], "
        "a list of rows, or a dict that has a list for each column"
    )


def _check_row(row: Any, source: str) -> None:
    if not isinstance(row, Mapping):
        raise RowError(
            f"the row is of type {type(row).__name__}: write it as a mapping from column to value", source=source
        )


def _sample_row(rows: RowSource, name: str) -> dict[str, Any]:
    """Returns the first row with its gaps filled from the next rows: a faulty first row must not hide the format.

    Raises RowError where none of these is a mapping; a single one that is none is left to the check of every row.
    """
    looked_at = [rows[position] for position in range(min(len(rows), _ROWS_LOOKED_AT))]
    if not any(isinstance(row, Mapping) for row in looked_at):
        _check_row(looked_at[0], f"{name}, row 1")
    sample: dict[str, Any] = {}
    for row in looked_at:
        for column, value in row.items() if isinstance(row, Mapping) else ():
            if sample.get(column) is None:
                sample[column] = value
    return sample


def _find_ids(rows: RowSource) -> tuple[list[str] | None, str | None]:
    """Returns the ids of the rows, None where these are their numbers, and then what is wrong with the first column."""
    problems = []
    for name in ID_COLUMNS:
        values = _column(rows, name) or []
        missing = sum(not isinstance(value, str | int) for value in values)
        if missing == len(values):
            continue
        ids = [str(value) for value in values]
        first: dict[str, int] = {}
        twice = next(((first[one], row) for row, one in enumerate(ids, 1) if first.setdefault(one, row) != row), None)
        if not missing and twice is None:
            return ids, None
        what = f"{missing} rows have none" if missing else f"rows {twice[0]} and {twice[1]} have the same"  # type: ignore[index]
        problems.append(f"the column `{name}` is not used for ids, since {what}: rows go by their numbers")
    return None, next(iter(problems), None)


def _column(rows: RowSource, name: str) -> list[Any] | None:
    if isinstance(rows, ArrowRows):
        return rows.column(name)
    # Only a list is known to give its rows for nothing; other sequences may open images to do so.
    if not isinstance(rows, list):
        return None
    return [row.get(name) if isinstance(row, Mapping) else None for row in rows]
