"""Dataset formats: one file each, whose name is the format's public name. A file dropped in here is found.

A format is a module with a docstring and three names:

    EXAMPLES    rows in this format, one per spelling of its columns; they serve the messages and the contract test
    matches(row: Mapping[str, Any]) -> bool
                whether a dataset is in this format, decided on the names and types of the columns of its first rows
    parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample
                one row as an example; raises RowError (its `source` is added by the caller) for a value that cannot be
                read; a missing answer is left out and an empty one kept, since `validate_example` reports both

A format whose rows hold several answers may have `parse_all`, which yields every pair of a row and takes what `parse`
takes. A format that lives elsewhere is named `package.module:NAME`, where NAME is a submodule or an object with the
same three names. Files that start with an underscore are not formats.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack

from mmdpo.records import PreferenceExample
from mmdpo.registry import Registry, is_elsewhere, load_elsewhere

Row: TypeAlias = Mapping[str, Any]


class RowPlace(TypedDict):
    """What `parse` is told of a row: where it stands, the folder that its image paths start from, and its id."""

    source: str
    image_root: Path | None
    row_id: str


class Parse(Protocol):
    """The signature of a format's `parse`."""

    def __call__(self, row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
        """Reads one row."""
        ...


@dataclass(frozen=True)
class Format:
    """A dataset format: how to recognise it and how to read its rows."""

    name: str
    summary: str
    """First line of the module's docstring."""
    examples: Sequence[Row]
    matches: Callable[[Row], bool]
    parse: Parse
    parse_all: Callable[..., Iterator[PreferenceExample]] | None = None
    """Every pair of a row, where it holds several."""


FORMATS = Registry("data.formats", "dataset format", further="auto, and package.module:NAME")

_SHOWN = 4
"""Formats whose columns are described to somebody whose columns fit none."""


def names() -> tuple[str, ...]:
    """Returns the names of the formats of this folder, sorted, without importing them."""
    return FORMATS.names()


def load(name: str) -> Format:
    """Returns the format of that name, or somebody else's given as `package.module:NAME`.

    Raises ValueError where there is no such format, its module cannot be imported, or lacks one of the names above.
    """
    found = load_elsewhere(name, FORMATS.kind)[1] if is_elsewhere(name) else FORMATS.load(name)
    missing = [part for part in ("EXAMPLES", "matches", "parse") if not hasattr(found, part)]
    if missing:
        raise ValueError(f"{name} is no dataset format: it has no {' and no '.join(missing)}")
    summary = (found.__doc__ or "").strip().partition("\n")[0]
    parse_all = getattr(found, "parse_all", None)
    return Format(name, summary, tuple(found.EXAMPLES), found.matches, found.parse, parse_all)


def detect(row: Row) -> Format:
    """Returns the one format of this folder that `row` is in.

    Raises ValueError where none, or more than one, fits: lists the columns found and what each format needs.
    """
    formats = [load(name) for name in names()]
    fitting = [candidate for candidate in formats if candidate.matches(row)]
    if len(fitting) > 1:
        several = " and ".join(candidate.name for candidate in fitting)
        raise ValueError(f"the columns ({', '.join(row)}) fit {several}: name the format that is meant")
    if not fitting:
        raise ValueError(_explain_no_match(row, formats))
    return fitting[0]


def _explain_no_match(row: Row, formats: Sequence[Format]) -> str:
    lines = [f"the columns ({', '.join(row)}) are in no known format. What each one needs, nearest first:"]
    ranked = sorted(formats, key=lambda candidate: -max(_nearness(row, example) for example in candidate.examples))
    for candidate in ranked[:_SHOWN]:
        spellings = sorted(candidate.examples, key=lambda example: -_nearness(row, example))
        lines.append(f"  {candidate.name}: {_describe(spellings[0])}")
    further = ", ".join(candidate.name for candidate in ranked[_SHOWN:])
    lines.append(f"Rename the columns, or name the format if the first row is an odd one. There are also {further}.")
    return "\n".join(lines)


def _nearness(row: Row, example: Row) -> float:
    """Returns the share of the columns of both that they have in common, a misspelt one counting half."""
    shared = sum(
        1.0 if column in row else 0.5 if difflib.get_close_matches(column, list(row), n=1, cutoff=0.75) else 0.0
        for column in example
    )
    return shared / len({*row, *example})


def _describe(example: Row) -> str:
    return ", ".join(f"{column} ({_kind(value)})" for column, value in example.items())


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "{" + ", ".join(value) + "}"
    if isinstance(value, Sequence) and value:
        return f"list of {_kind(value[0])}"
    return type(value).__name__
