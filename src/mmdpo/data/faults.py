"""Rows that cannot be trained on: named, refused or left out, and written to a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.files import printable
from mmdpo.records import RowError

logger = logging.getLogger(__name__)

_NAMED = 20
"""Faults that a message names."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be trained on."""

    row: int
    """Number of the row in its file, from 1."""
    source: str
    problem: str


def as_fault(dataset: PreferenceDataset, place: int, error: Exception) -> Fault:
    """Returns the fault of a row that raised: odd rows raise nearly anything, and must not hide the others' faults."""
    problem = error.problem if isinstance(error, RowError) else printable(f"{type(error).__name__}: {error}")
    return Fault(dataset.row_of(place), printable(dataset.source_of(place)), problem)


def refuse_faults(name: str, faults: Sequence[Fault], rows: int, *, skip: bool) -> None:
    """Raises RowError, which names the faulty rows, or warns that they are skipped.

    Raises ValueError where all would be skipped.
    """
    if not faults:
        return
    if not skip:
        raise RowError(describe_faults(faults, rows))
    if len(faults) == rows:
        raise ValueError(f"every row of {name} is faulty; the first: {faults[0].source}: {faults[0].problem}")
    logger.warning("%s: %d of %d rows are faulty and skipped", name, len(faults), rows)


def describe_faults(faults: Sequence[Fault], rows: int) -> str:
    """Returns one message that names every faulty row, up to 20 of them."""
    lines = [f"  {fault.source}: {fault.problem}" for fault in faults[:_NAMED]]
    if len(faults) > _NAMED:
        lines.append(f"  … and {len(faults) - _NAMED} more; `mmdpo data check` lists all")
    hint = " (on_bad_row: skip leaves them out)" if len(faults) < rows else ""
    head = f"{len(faults)} of {rows} rows cannot be trained on{hint}:"
    return "\n".join([head, *lines])


def write_faults(path: str | Path, faults: Collection[Fault]) -> None:
    """Writes faults as JSON lines with `row` (from 1), `source` and `problem`."""
    lines = (json.dumps(asdict(fault), ensure_ascii=False) + "\n" for fault in faults)
    Path(path).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
