"""The picture of a diagnosis: on how many pairs the preference, or a rule, is right, with intervals beside chance."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mmdpo.report.diagnosis import CHANCE
from mmdpo.report.figures import DOTS_PER_INCH, DRAWING, GREY, INLINE, NO_METADATA, inline_svg, shorten
from mmdpo.tables import show_interval

BLUE = "#0e8fa8"
"""Stands out from a white page and from a dark one."""
WIDTH, ROW_HEIGHT, EXTRA = 8.2, 0.34, 0.75
"""Inches."""


def accuracies_of(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns what the picture shows, by label: the accuracy under each image, or that of each rule."""
    measures = {m["label"]: m for key, m in result["measures"].items() if key.startswith("accuracy_")}
    rules = {rule["label"]: {**rule, "value": rule.get("accuracy")} for rule in result["rules"].values()}
    return {label: m for label, m in {**measures, **rules}.items() if m.get("value") is not None}


def accuracy_svg(accuracies: Mapping[str, Mapping[str, Any]], prefix: str) -> str:
    """Returns the picture as an `<svg>` element to stand inside a page."""
    drawn = io.StringIO()
    with matplotlib.rc_context({**DRAWING, **INLINE}):
        _draw(accuracies).savefig(drawn, format="svg", transparent=True, metadata=NO_METADATA)
    said = (f"{name} {show_interval(m['value'], m.get('low'), m.get('high'), 1)} %" for name, m in accuracies.items())
    return inline_svg(drawn.getvalue(), prefix, f"Share of pairs that are right, chance {CHANCE} %: {'; '.join(said)}")


def draw_accuracies(accuracies: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Draws the picture as a PNG and an SVG beside it; returns the path of the PNG."""
    with matplotlib.rc_context(DRAWING):
        figure = _draw(accuracies)
        figure.savefig(path, dpi=DOTS_PER_INCH)
        figure.savefig(path.with_suffix(".svg"), metadata=NO_METADATA)
    return path


def _draw(accuracies: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(WIDTH, len(accuracies) * ROW_HEIGHT + EXTRA), layout="constrained")
    axes: Any = figure.add_subplot()
    for place, measure in enumerate(accuracies.values()):
        if measure.get("low") is not None and measure.get("high") is not None:
            axes.plot([measure["low"], measure["high"]], [place, place], color=BLUE, linewidth=2.2)
        axes.plot(measure["value"], place, "o", markersize=7, color=BLUE)
        text = show_interval(measure["value"], measure.get("low"), measure.get("high"), 1)
        axes.text(103, place, text, size=9, va="center")
    axes.axvline(CHANCE, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.text(CHANCE, -0.55, "chance", size=8, color=GREY, ha="center", va="bottom")
    axes.set_xlim(0, 100)
    axes.set_yticks(range(len(accuracies)), [shorten(label) for label in accuracies], size=9)
    axes.set_ylim(len(accuracies) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_xlabel("% of pairs that are right, with 95 % intervals", size=9)
    return figure
