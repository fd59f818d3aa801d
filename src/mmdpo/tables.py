"""One table: what is shown of it in a terminal and in Markdown, and the same unrounded as CSV."""

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdpo.files import clean_text

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MISSING = "–"
"""Stands where a number was not measured."""
NO_BREAK = "\N{NO-BREAK SPACE}"
_IN_MARKDOWN = str.maketrans({"|": "\\|", "\n": " ", NO_BREAK: " "})
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
"""Stand after the name of a measure: which way is better."""
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""How texts begin that a spreadsheet runs, or passes over a blank to run what follows."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """A table. The first column says what a row is about."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells as they are shown."""
    title: str = ""
    records: tuple[Mapping[str, Any], ...] = ()
    """The same unrounded, in as many rows as it takes; None stands for what is missing."""
    holds_figures: bool = True
    """Whether the other columns hold figures, which stand on the right and are never cut, or text."""

    def markdown(self) -> str:
        """Returns the table in GitHub's Markdown, ending with a newline; the title stands above it, bold."""
        rule = "---:" if self.holds_figures else "---"
        lines = [self.headers, ("---", *[rule] * (len(self.headers) - 1)), *self.rows]
        escaped = ([cell.translate(_IN_MARKDOWN) for cell in line] for line in lines)
        title = f"**{self.title}**\n\n" if self.title else ""
        return title + "".join(f"| {' | '.join(line)} |\n" for line in escaped)

    def csv(self) -> str:
        """Returns the records; what is missing is an empty field."""
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        return csv_text(columns, ([record.get(column) for column in columns] for record in self.records))

    def terminal(self, *, wrap: int = 1000, **look: Any) -> "RichTable":
        """Returns the table for `rich`: names are folded where room is short, figures never cut, nothing is markup.

        Headers of figures are wrapped at `wrap` characters, longer words whole: rich would cut them to make the table
        narrow enough. `look` are arguments of `rich.table.Table`.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        settings: dict[str, Any] = dict(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False) | look
        made = RichTable(**settings)
        if self.title:
            made.title, made.title_justify = Text(clean_text(self.title)), "left"
        figures: dict[str, Any] = dict(justify="right", no_wrap=True, overflow="ellipsis")
        texts: dict[str, Any] = dict(justify="left", overflow="fold")
        for place, header in enumerate(map(clean_text, self.headers)):
            shown = textwrap.fill(header, wrap, break_long_words=False) if place else header
            made.add_column(Text(shown), **(figures if place and self.holds_figures else texts))
        for row in self.rows:
            made.add_row(*(Text(clean_text(cell)) for cell in row))
        return made


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV; None is an empty field, and an apostrophe stands before what would be a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_neutralise(cell) for cell in row] for row in (headers, *rows))
    return text.getvalue()


def show_number(value: Any, form: int | str | None = None, *, signed: bool = False) -> str:
    """Returns a number with a true minus sign; one that rounds to zero has no sign, and MISSING for no number.

    `form` is the number of decimals, or a format such as `.1f`; four significant digits unless given.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return MISSING
    if form is None:
        form = ",.0f" if 1000 <= abs(value) < 1e7 else ".4g"
    elif isinstance(form, int):
        form = f".{form}f"
    text = format(value, f"+{form}" if signed and not form.startswith("+") else form)
    is_number = any(digit in text for digit in "123456789") or not any(map(str.isdigit, text))
    return (text if is_number else text.lstrip("+-")).replace("-", "−")


def show_interval(value: Any, low: Any, high: Any, form: int | str | None = None, *, signed: bool = False) -> str:
    """Returns a value with its interval in brackets, where it has one."""
    shown, ends = show_number(value, form, signed=signed), show_ends(low, high, form)
    return shown if MISSING in (shown, ends) else f"{shown} [{ends}]"


def show_ends(low: Any, high: Any, form: int | str | None = None, *, signed: bool = False) -> str:
    """Returns the ends of an interval, MISSING where there is none."""
    ends = [show_number(end, form, signed=signed) for end in (low, high)]
    return MISSING if MISSING in ends else f"{NO_BREAK}…{NO_BREAK}".join(ends)


def matrix(
    title: str, corner: str, rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], records: Sequence[Any]
) -> Table:
    """Returns a table of cells by row and column name; a cell that is not given is missing."""
    shown = tuple((name, *(cells.get(column, MISSING) for column in columns)) for name, cells in rows.items())
    return Table((corner, *columns), shown, title, tuple(records))


def _neutralise(cell: Any) -> Any:
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell)
    is_formula = _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
    return clean_text(f"'{text}" if is_formula else text)
