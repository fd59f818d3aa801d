"""Runs beside each other: the table of differences for the terminal, as Markdown and CSV, and its picture.

Everything here takes the content of a compare.json.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.files import clean
from mmdpo.report.curves import RUN_COLOURS
from mmdpo.report.figures import DOTS_PER_INCH, DRAWING, GREY, NO_METADATA, shorten
from mmdpo.report.tables import ARROWS, MISSING
from mmdpo.tables import csv_text

Content: TypeAlias = Mapping[str, Any]
"""The content of a compare.json: `runs`, `rows`, `notes`, `missing`, `statistics`."""

DIGITS = {"share": 3, "0–6": 2}
"""Decimals that are shown, by unit; 1 for any other."""
ROW_HEIGHT = 0.21
"""Inches, as the next."""
PANEL_EXTRA = 0.72
PICTURE_WIDTH = 8.2
NOTE_CHARACTERS = 118
BESIDE_TITLE = 4
"""Entries of the legend that have room beside the title."""


def print_comparison(content: Content, console: Console) -> None:
    """Prints a table for each run that is compared with the first and each benchmark, then what a reader should know.

    The tables fit 80 columns: the runs are A and B in them, and named above, by text whatever stands in the names.
    """
    content = clean(content)
    first = content["runs"][0]
    for run in content["runs"][1:]:
        for benchmark in dict.fromkeys(row["benchmark"] for row in _rows_of(content, run)):
            rows = [row for row in _rows_of(content, run) if row["benchmark"] == benchmark]
            console.print(Text(f"{benchmark}: A = {first}, B = {run}"), soft_wrap=True)
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
            table.add_column("", overflow="fold")  # where room is short names are folded, and numbers never cut
            for header in ("A", "B", "B − A", "low", "high", "≠ 0", "items"):
                table.add_column(header, justify="right", no_wrap=True)
            for row in rows:
                name, *cells = _cells(row)
                table.add_row(Text(name.removeprefix(f"{benchmark}/")), *cells[:3], *_ends(row), *cells[4:6])
            console.print(table)
            console.print()
    for line in _remarks(content, explain_needed=False):
        console.print(Text(line), soft_wrap=True)


def markdown_comparison(content: Content) -> str:
    """Returns the tables in GitHub's Markdown, ending with a newline."""
    parts = []
    for run in content["runs"][1:]:
        headers = _headers(content["runs"][0], run)
        lines = [headers, ["---", *("---:" for _ in headers[1:])], *(_cells(row) for row in _rows_of(content, run))]
        escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        title = f"## {run} − {content['runs'][0]}\n\n"
        parts.append(title + "".join(f"| {' | '.join(line)} |\n" for line in escaped))
    parts.append("".join(f"- {line}\n" for line in _remarks(content)))
    return "\n".join(parts)


def csv_comparison(content: Content) -> str:
    """Returns the rows unrounded; what is not known is an empty field."""
    columns = list(content["rows"][0])
    rows = ([content["runs"][0], *(row[column] for column in columns)] for row in content["rows"])
    return csv_text(["first", *columns], rows)


def draw_comparison(content: Content, path: Path) -> Path:
    """Draws each difference with its interval, one panel per benchmark and unit, as a PNG and an SVG beside it.

    Returns the path of the PNG. A metric without an interval is left out of the picture.
    """
    panels: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in content["rows"]:
        if row["low"] is not None:
            metrics = panels.setdefault((row["benchmark"], row["unit"]), {})
            metrics.setdefault(row["metric"], []).append(row)
    heights = [len(metrics) * _row_height(content) + PANEL_EXTRA for metrics in panels.values()] or [PANEL_EXTRA]
    notes = [line for remark in _remarks(content)[1:] for line in textwrap.wrap(remark, NOTE_CHARACTERS)]
    with matplotlib.rc_context(DRAWING):
        figure = Figure(figsize=(PICTURE_WIDTH, sum(heights) + 0.17 * len(notes) + 0.7), layout="constrained")
        first = shorten(content["runs"][0])
        figure.suptitle(f"Difference to {first}, with 95 % intervals", x=0.01, ha="left", size=11)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        for place, ((benchmark, unit), metrics) in enumerate(panels.items()):
            _draw_panel(figure.add_subplot(grid[place]), benchmark, unit, metrics, content["runs"][1:])
        _add_legend(figure, content["runs"][1:])
        if notes:
            figure.supxlabel("\n".join(notes), x=0.01, ha="left", size=7.5, color=GREY)
        figure.savefig(path, dpi=DOTS_PER_INCH)
        figure.savefig(path.with_suffix(".svg"), metadata=NO_METADATA)
    return path


def _row_height(content: Content) -> float:
    return ROW_HEIGHT * max(1.0, 0.55 * len(content["runs"][1:]))


def _draw_panel(
    axes: Any, benchmark: str, unit: str, metrics: Mapping[str, Sequence[Mapping[str, Any]]], runs: Sequence[str]
) -> None:
    for place, rows in enumerate(metrics.values()):
        for row in rows:
            run = runs.index(row["run"])
            height = place + (run - (len(runs) - 1) / 2) * 0.7 / max(1, len(runs))
            colour = RUN_COLOURS[run % len(RUN_COLOURS)]
            axes.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=1.6)
            face = colour if row["excludes_zero"] else "white"
            axes.plot(row["difference"], height, "o", markersize=5, color=colour, markerfacecolor=face)
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=0)
    labels = [shorten(name.partition("/")[2]) + ARROWS[rows[0]["better"]] for name, rows in metrics.items()]
    axes.set_yticks(range(len(labels)), labels, size=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_title(benchmark, loc="left", size=10)
    axes.set_xlabel(f"difference ({unit})", size=8)


def _add_legend(figure: Any, runs: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=RUN_COLOURS[place % len(RUN_COLOURS)], linewidth=2, label=shorten(run))
        for place, run in enumerate(runs)
    ]
    for face, meaning in ((GREY, "interval excludes 0"), ("white", "it does not")):
        marker: dict[str, Any] = dict(color=GREY, marker="o", linestyle="none", markersize=5, markerfacecolor=face)
        handles.append(Line2D([], [], label=meaning, **marker))
    is_few = len(handles) <= BESIDE_TITLE
    where = "outside upper right" if is_few else "outside lower left"
    figure.legend(handles=handles, loc=where, ncols=min(len(handles), BESIDE_TITLE), fontsize=8, frameon=False)


def _headers(first: str, run: str) -> list[str]:
    return ["metric", first, run, "difference", "95 % interval", "excludes 0", "items", "items needed"]


def _rows_of(content: Content, run: str) -> list[Mapping[str, Any]]:
    return [row for row in content["rows"] if row["run"] == run]


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = _ends(row)
    clear = MISSING if row["excludes_zero"] is None else ("yes" if row["excludes_zero"] else "no")
    counts = [MISSING if row[name] is None else f"{row[name]:,}" for name in ("items", "items_needed")]
    values = [_show(row[name], row) for name in ("first_value", "value")]
    name = row["metric"] + ARROWS[row["better"]]
    interval = MISSING if row["low"] is None else f"{low} … {high}"
    return [name, *values, _show(row["difference"], row, "+"), interval, clear, *counts]


def _ends(row: Mapping[str, Any]) -> list[str]:
    return [_show(row[name], row, "+") for name in ("low", "high")]


def _show(number: float | None, row: Mapping[str, Any], sign: str = "") -> str:
    """Returns a number in its unit's digits, with a true minus sign; one that rounds to nothing has no sign."""
    if number is None:
        return MISSING
    text = format(number, f"{sign}.{DIGITS.get(row['unit'], 1)}f")
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def _remarks(content: Content, *, explain_needed: bool = True) -> list[str]:
    """Returns how the differences were made and what to know of them; the terminal has no column of items needed."""
    statistics = content["statistics"]
    how = (
        f"Paired bootstrap over {statistics['resampled']}s, {statistics['resamples']:,} resamples, seed "
        f"{statistics['seed']}. ↑ higher is better, ↓ lower is better."
    )
    if explain_needed:
        how += " Items needed: to see a true difference of this size four times out of five."
    return [
        how,
        *(f"note: {note}" for note in content["notes"]),
        *(f"missing: {piece}" for piece in content["missing"]),
    ]
