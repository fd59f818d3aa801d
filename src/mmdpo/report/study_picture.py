"""The picture of a study: every seed as a dot, the mean with its interval, one panel for each measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mmdpo.report.figures import DOTS_PER_INCH, DRAWING, GREY, NO_METADATA, shorten
from mmdpo.report.study import ARROWS, read_study_results

PICTURE = "picture.png"
BLUE = "#0969da"
PANELS_ACROSS = 4
PANEL_WIDTH = 2.5
"""Inches, as the next."""
ROW_HEIGHT = 0.24
PANEL_EXTRA = 0.85
LEFT_OUT = ("time/",)
"""Measures that say nothing of what was learnt."""


def draw_study(folder: str | Path) -> Path:
    """Draws picture.png and picture.svg beside a study's results.json and returns the path of the PNG.

    A variant without a value has an empty row, and without an interval its dots alone. Raises RunFolderError as
    `read_study_results` does.
    """
    results = read_study_results(folder)
    path = Path(folder) / PICTURE
    names = list(results["variants"])
    measures = {name: measure for name, measure in results["measures"].items() if not name.startswith(LEFT_OUT)}
    rows = max(1, -(-len(measures) // PANELS_ACROSS))
    size = (PANELS_ACROSS * PANEL_WIDTH, rows * (len(names) * ROW_HEIGHT + PANEL_EXTRA) + 0.45)
    with matplotlib.rc_context(DRAWING):
        figure = Figure(figsize=size, layout="constrained")
        what, line = shorten(results["study"]), shorten(results["baseline"])
        title = f"{what}: every seed, mean and 95 % interval; the line is {line}"
        figure.suptitle(title, x=0.01, ha="left", size=10)
        for place, (name, measure) in enumerate(measures.items()):
            axes = figure.add_subplot(rows, PANELS_ACROSS, place + 1)
            _draw_measure(axes, measure, [results["values"].get(variant, {}).get(name) for variant in names])
            baseline = results["values"].get(results["baseline"], {}).get(name)
            if baseline is not None and baseline.get("mean") is not None:
                axes.axvline(baseline["mean"], color=GREY, linewidth=0.8, alpha=0.6, zorder=0)
            labels = [shorten(name) if place % PANELS_ACROSS == 0 else "" for name in names]
            axes.set_yticks(range(len(names)), labels, size=8)
            axes.set_ylim(len(names) - 0.5, -0.5)
        figure.savefig(path, dpi=DOTS_PER_INCH)
        figure.savefig(path.with_suffix(".svg"), metadata=NO_METADATA)
    return path


def _draw_measure(axes: Any, measure: Mapping[str, Any], values: Sequence[Mapping[str, Any] | None]) -> None:
    for height, value in enumerate(values):
        if value is None or value["mean"] is None:
            continue
        seeds = list(value["by_seed"].values())
        axes.plot(seeds, [height] * len(seeds), "o", markersize=3, color=GREY, alpha=0.55, markeredgewidth=0)
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [height, height], color=BLUE, linewidth=1.5)
        axes.plot(value["mean"], height, "o", markersize=4.5, color=BLUE)
    axes.set_title(f"{shorten(measure['label'])}{ARROWS.get(measure['better'], '')}", loc="left", size=9)
    axes.set_xlabel(shorten(measure["unit"]), size=8)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
