"""A table as records: what is shown of it, and the same unrounded, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdpo.report.spreadsheet import csv_text

MISSING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Grid:
    """A table. The first column says what a row is about."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells as they are shown."""
    records: tuple[Mapping[str, Any], ...]
    """The same unrounded, in as many rows as it takes; None stands for what is missing."""

    def markdown(self) -> str:
        """Returns the table in GitHub's Markdown, ending with a newline."""
        lines = [self.headers, ("---", *("---:" for _ in self.headers[1:])), *self.rows]
        escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in escaped)

    def csv(self) -> str:
        """Returns the records; what is missing is an empty field."""
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        return csv_text(columns, ([record.get(column) for column in columns] for record in self.records))


def show_number(value: Any, digits: int | None = None, *, signed: bool = False) -> str:
    """Returns a number with so many decimals (four significant digits unless given) and a true minus sign."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return MISSING
    sign = "+" if signed else ""
    if digits is None:
        text = f"{value:{sign},.0f}" if 1000 <= abs(value) < 1e7 else f"{value:{sign}.4g}"
    else:
        text = f"{value:{sign}.{digits}f}"
    # A number that rounds to nothing has no sign.
    return (text if value != value or float(text.replace(",", "")) else text.lstrip("+-")).replace("-", "−")


def show_interval(value: Any, low: Any, high: Any, digits: int | None = None, *, signed: bool = False) -> str:
    """Returns a value with its interval in brackets, where it has one."""
    shown = show_number(value, digits, signed=signed)
    if shown == MISSING or low is None or high is None:
        return shown
    ends = (show_number(end, digits, signed=signed) for end in (low, high))
    return f"{shown} [{f',{NO_BREAK}'.join(ends)}]"


def matrix(
    title: str, corner: str, rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], records: Sequence[Any]
) -> Grid:
    """Returns a table of cells by row and column name; a cell that is not given is missing."""
    shown = tuple((name, *(cells.get(column, MISSING) for column in columns)) for name, cells in rows.items())
    return Grid(title, (corner, *columns), shown, tuple(records))
