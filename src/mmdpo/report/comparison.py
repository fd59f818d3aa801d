"""Runs beside each other: the table of differences for the terminal, as Markdown and CSV, and its picture.

Everything here takes the content of a compare.json.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mmdpo.files import clean
from mmdpo.report.figures import GREY, RUN_COLOURS, name_rows, shorten, write_figure
from mmdpo.tables import ARROWS, MISSING, Table, show_ends, show_number

Content: TypeAlias = Mapping[str, Any]
"""The content of a compare.json: `runs`, `rows`, `notes`, `missing`, `statistics`."""

DIGITS = {"share": 3, "0–6": 2}
"""Decimals that are shown, by unit; 1 for any other."""
_WRAP = 8
"""Characters of a header's line in the terminal."""


def print_comparison(content: Content, console: Console) -> None:
    """Prints a table for each run that is compared with the first and each benchmark, then what a reader should know.

    The tables fit 80 columns: the runs are A and B in them, and named above, by text whatever stands in the names.
    """
    content = clean(content)
    first, *others = content["runs"]
    headers = ("", "A", "B", "B − A", "95 % interval", "items")
    for run in others:
        of_run = [row for row in content["rows"] if row["run"] == run]
        for benchmark in dict.fromkeys(row["benchmark"] for row in of_run):
            rows = [_terminal_cells(row) for row in of_run if row["benchmark"] == benchmark]
            figures = zip(headers[1:], *(cells for _, *cells in rows), strict=True)
            widths = [max(map(cell_len, (*textwrap.wrap(head, _WRAP), *cells))) for head, *cells in figures]
            room = console.width - sum(widths) - 2 * len(widths)
            is_narrow = any(cell_len(name) > room for name, *_ in rows)
            room += is_narrow * len(widths)  # one blank between columns instead of two
            table = Table(headers, tuple((_fold(name, room), *cells) for name, *cells in rows))
            console.print(Text(f"{benchmark}: A = {first}, B = {run}"), soft_wrap=True)
            console.print(table.terminal(wrap=_WRAP, padding=(0, 0 if is_narrow else 1, 0, 0)))
            console.print()
    for line in _remarks(content, for_terminal=True):
        console.print(Text(line), soft_wrap=True)


def markdown_comparison(content: Content) -> str:
    """Returns the tables in GitHub's Markdown, ending with a newline."""
    first, *others = content["runs"]
    parts = []
    for run in others:
        headers = ("metric", first, run, "difference", "95 % interval", "excludes 0", "items", "items needed")
        table = Table(headers, tuple(_cells(row) for row in content["rows"] if row["run"] == run))
        parts.append(f"## {run} − {first}\n\n{table.markdown()}")
    return "\n".join([*parts, "".join(f"- {line}\n" for line in _remarks(content))])


def csv_comparison(content: Content) -> str:
    """Returns the rows unrounded; what is not known is an empty field."""
    return Table((), (), records=tuple({"first": content["runs"][0], **row} for row in content["rows"])).csv()


def draw_comparison(content: Content, path: Path) -> Path:
    """Draws each difference with its interval, one panel per benchmark and unit, as a PNG and an SVG beside it.

    Returns the path of the PNG. A metric without an interval is left out of the picture.
    """
    return write_figure(partial(_draw, content), path)


def _draw(content: Content) -> Figure:
    panels: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in content["rows"]:
        if row["low"] is not None:
            metrics = panels.setdefault((row["benchmark"], row["unit"]), {})
            metrics.setdefault(row["metric"], []).append(row)
    first, *others = content["runs"]
    colours = {run: RUN_COLOURS[place % len(RUN_COLOURS)] for place, run in enumerate(others)}
    row_height = 0.21 * max(1.0, 0.55 * len(others))  # inches, as all of these
    heights = [len(metrics) * row_height + 0.72 for metrics in panels.values()] or [0.72]
    notes = [line for remark in _remarks(content)[1:] for line in textwrap.wrap(remark, 118)]
    size = (8.2, sum(heights) + 0.17 * len(notes) + 0.7)
    figure = Figure(figsize=size, layout="constrained" if panels else None)  # it needs axes
    figure.suptitle(f"Difference to {shorten(first)}, with 95 % intervals", x=0.01, ha="left", size=11)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for place, ((benchmark, unit), metrics) in enumerate(panels.items()):
        axes: Any = figure.add_subplot(grid[place])
        for middle, rows in enumerate(metrics.values()):
            for row in rows:
                height = middle + (others.index(row["run"]) - (len(others) - 1) / 2) * 0.7 / max(1, len(others))
                colour = colours[row["run"]]
                axes.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=1.6)
                face = colour if row["excludes_zero"] else "white"
                axes.plot(row["difference"], height, "o", markersize=5, color=colour, markerfacecolor=face)
        axes.axvline(0, color=GREY, linewidth=0.9, zorder=0)
        name_rows(axes, [name.partition("/")[2] + ARROWS[rows[0]["better"]] for name, rows in metrics.items()])
        axes.set_title(benchmark, loc="left", size=10)
        axes.set_xlabel(f"difference ({unit})", size=8)
    handles = [Line2D([], [], color=colour, linewidth=2, label=shorten(run)) for run, colour in colours.items()]
    for face, meaning in ((GREY, "interval excludes 0"), ("white", "it does not")):
        marker: dict[str, Any] = dict(color=GREY, marker="o", linestyle="none", markersize=5, markerfacecolor=face)
        handles.append(Line2D([], [], label=meaning, **marker))
    where = "outside upper right" if len(handles) <= 4 else "outside lower left"  # beside the title, if there is room
    figure.legend(handles=handles, loc=where, ncols=min(len(handles), 4), fontsize=8, frameon=False)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", size=7.5, color=GREY)
    return figure


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    digits = DIGITS.get(row["unit"], 1)
    return (
        row["metric"] + ARROWS[row["better"]],
        *(show_number(row[value], digits) for value in ("first_value", "value")),
        show_number(row["difference"], digits, signed=True),
        show_ends(row["low"], row["high"], digits, signed=True),
        {None: MISSING, True: "yes", False: "no"}[row["excludes_zero"]],
        *(show_number(row[count], ",.0f") for count in ("items", "items_needed")),
    )


def _terminal_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of the terminal, which has a star instead of the column "excludes 0", and no items needed."""
    name, first, value, difference, interval, _, items, _ = _cells(row)
    star = "*" if row["excludes_zero"] else " "
    return name.removeprefix(f"{row['benchmark']}/"), first, value, difference, interval + star, items


def _fold(name: str, room: int) -> str:
    """Returns a name in lines that fit the room where they can, broken after strokes alone."""
    lines = [""]
    for part in re.findall("[^/]+/?|/", name):
        if lines[-1].strip() and cell_len(lines[-1] + part) > room:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _remarks(content: Content, *, for_terminal: bool = False) -> list[str]:
    """Returns how the differences were made and what to know of them; the terminal has no column of items needed."""
    statistics = content["statistics"]
    how = (
        f"Paired bootstrap by {statistics['resampled']}, {statistics['resamples']:,} resamples, seed "
        f"{statistics['seed']}. ↑ higher is better, ↓ lower is better."
    )
    if for_terminal:
        how += " * the interval excludes 0."
    else:
        how += " Items needed: to see a true difference of this size four times out of five."
    notes = [f"note: {note}" for note in content["notes"]]
    return [how, *notes, *(f"missing: {piece}" for piece in content["missing"])]
