"""What a finished quickstart prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from mmdpo.report.tables import rich_table
from mmdpo.report.wording import WORLD_CAVEATS, fill


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Prints the table of results and, right below it, what the world plants and does not show.

    `results` is the content of results.json; `variants`, `scenes` and `seed` are read.
    """
    console.print(rich_table(results["variants"]))
    console.print()
    console.print(Text(" ".join(fill(caveat.short, results) for caveat in WORLD_CAVEATS)))
