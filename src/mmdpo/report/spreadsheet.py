"""CSV for spreadsheets: numbers stay numbers, and no text is taken for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmdpo.files import clean_text

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""How texts begin that a spreadsheet runs, or passes over a blank to run what follows."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV; None is an empty field, and an apostrophe stands before what would be a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_neutralise(cell) for cell in row] for row in (headers, *rows))
    return text.getvalue()


def _neutralise(cell: Any) -> Any:
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell)
    is_formula = _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
    return clean_text(f"'{text}" if is_formula else text)
