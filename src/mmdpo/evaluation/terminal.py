"""What evaluations print: names from data are text, never markup, and nothing in them steers the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mmdpo.printable import printable


def as_text(name: str) -> Text:
    """Returns a name for a cell or a title of a table."""
    return Text(printable(name))


def print_line(console: Console, line: str) -> None:
    """Prints a line as it is, however long; the terminal wraps it."""
    console.print(as_text(line), soft_wrap=True)
