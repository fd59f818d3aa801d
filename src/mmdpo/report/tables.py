"""The table of results: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rich import box
from rich.table import Table
from rich.text import Text

from mmdpo.report.wording import variant_label
from mmdpo.tables import csv_text

Scores: TypeAlias = Mapping[str, float | None]
"""The scores of one variant by the keys of results.json; None or absent where not measured."""

MISSING = "–"
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
"""Stand after the name of a measure: which way is better."""


@dataclass(frozen=True)
class Column:
    """A column of the table; arrows in the header say which way is better, and nothing is printed bold."""

    key: str
    header: str
    meaning: str
    form: str = ".1f"

    def show(self, scores: Scores) -> str:
        """Returns the variant's score as text, with a true minus sign, or a dash where there is none."""
        value = scores.get(self.key)
        if value is None:
            return MISSING
        text = format(value, self.form)
        if not float(text):
            text = text.lstrip("+-")  # a change that rounds to nothing has no sign
        return text.replace("-", "−")


COLUMNS = (
    Column("chair_i", "CHAIR_i ↓", "% of the named objects that are not in the scene"),
    Column("chair_s", "CHAIR_s ↓", "% of the captions that name at least one such object"),
    Column("cover", "Cover ↑", "% of the scenes' objects that are named"),
    Column("cog", "Cog ↓", "% of the named objects that are absent partners of an object that is there"),
    Column(
        "delta_logp_chosen",
        "Δ log p(chosen)",
        "change of the chosen answer's log-probability since the start, in nats, summed over its tokens",
        "+.2f",
    ),
    Column("accuracy_real", "Pair acc., real image", "% of the pairs whose chosen answer has the higher reward"),
    Column("accuracy_other", "Pair acc., other image", "the same under another scene's image"),
)


def rich_table(variants: Mapping[str, Scores]) -> Table:
    """Builds the table for the terminal; it fits 80 columns."""
    units = "CHAIR, Cover, Cog and pair accuracy in %, log p in nats"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=units, caption_justify="left")
    table.add_column("Variant", no_wrap=True)
    for column in COLUMNS:
        # Wrapped here, for rich would cut the longest words of the headers to make the table narrow enough.
        table.add_column(textwrap.fill(column.header, 7, break_long_words=False), justify="right")
    for name, scores in variants.items():
        table.add_row(Text(variant_label(name)), *(column.show(scores) for column in COLUMNS))
    return table


def markdown_table(variants: Mapping[str, Scores]) -> str:
    """Returns the table in GitHub's Markdown, ending with a newline."""
    rows = [
        ["Variant", *(column.header for column in COLUMNS)],
        ["---", *("---:" for _ in COLUMNS)],
        *([variant_label(name), *(column.show(scores) for column in COLUMNS)] for name, scores in variants.items()),
    ]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def csv_table(variants: Mapping[str, Scores]) -> str:
    """Returns the scores unrounded under the keys of results.json; a score that was not measured is an empty field."""
    rows = ([name, *(scores.get(column.key) for column in COLUMNS)] for name, scores in variants.items())
    return csv_text(["variant", *(column.key for column in COLUMNS)], rows)
