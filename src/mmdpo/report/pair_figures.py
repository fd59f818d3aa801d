"""The figures of a run of `mmdpo pairs`: what became of prompts and answers, margins, and lengths of both answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmdpo.files import clean_text
from mmdpo.report.figures import PANEL_SIZE, VARIANT_COLOURS, inline_figure, shorten, write_figure
from mmdpo.report.layout import File, name_part

MOST_BARS, MOST_REASONS = 30, 10
"""Bars of a histogram, and reasons of loss in a figure; the table has all."""
COLOURS = {"chosen": VARIANT_COLOURS[1], "rejected": VARIANT_COLOURS[0], "lost": VARIANT_COLOURS[4]}


@dataclass(frozen=True)
class Drawing:
    """A small figure, its section, and what it says for readers who do not see it."""

    part: str
    draw: Callable[[], Figure]
    description: str


@dataclass(frozen=True)
class Bar:
    """A step of a funnel, or what is lost between two."""

    name: str
    start: float
    length: float
    is_lost: bool = False


def make_figures(result: Mapping[str, Any], words: Sequence[tuple[int, int]]) -> dict[str, Drawing]:
    """Returns the figures of a run by name: two funnels, the margins, and the lengths of both answers."""
    found = {}
    for name, title, bars in (
        ("prompts", "What became of prompts", funnel_of_prompts(result)),
        ("answers", "What became of answers", funnel_of_answers(result)),
    ):
        if any(bar.length for bar in bars):
            said = "; ".join(f"{bar.name} {bar.length:,.0f}" for bar in bars)
            found[name] = Drawing("funnel", partial(_draw_funnel, title, bars), f"{title}: {said}")
    if margins := _read_margins(result):
        said = f"Margins of {sum(margins.values()):,.0f} pairs, from {min(margins):g} to {max(margins):g}"
        found["margins"] = Drawing("figures", partial(_draw_margins, margins), said)
    if words:
        sides = dict(zip(("chosen", "rejected"), zip(*words, strict=True), strict=True))
        means = ", ".join(f"{side} {sum(of) / len(of):.1f}" for side, of in sides.items())
        said = f"Words of answers of {len(words):,} pairs; means: {means}"
        found["lengths"] = Drawing("figures", partial(_draw_lengths, sides), said)
    return found


def funnel_of_prompts(result: Mapping[str, Any]) -> list[Bar]:
    """Returns the bars from prompts to pairs; what is lost hangs between what was there before and after."""
    funnel = result["funnel"]
    lost, dropped = (_reasons(funnel[f"{kind}_lost"]) for kind in ("prompts", "pairs"))
    prompts, pairs = _count(funnel["prompts"]), _count(funnel["pairs"])
    bars = [Bar("prompts", 0, prompts), *_hang(lost, prompts)]
    if lost and (dropped or pairs != prompts - sum(lost.values())):
        bars.append(Bar("prompts that offer a pair", 0, max(0.0, prompts - sum(lost.values()))))
    return [*bars, *_hang(dropped, pairs + sum(dropped.values())), Bar("pairs", 0, pairs)]


def funnel_of_answers(result: Mapping[str, Any]) -> list[Bar]:
    """Returns the bars from answers to those that may be in a pair."""
    funnel = result["funnel"]
    answers = _count(funnel["answers"])
    lost = _hang(_reasons(funnel["answers_lost"]), answers)
    return [Bar("answers", 0, answers), *lost, Bar("may be in a pair", 0, _count(funnel["candidates"]))]


def _hang(lost: Mapping[str, float], total: float) -> Iterator[Bar]:
    for reason, count in lost.items():
        total -= count
        yield Bar(reason, max(0.0, total), count, is_lost=True)


def _reasons(lost: Mapping[str, float]) -> dict[str, float]:
    """Returns the reasons that cost most, and what the others cost together."""
    counts = {shorten(reason): _count(count) for reason, count in lost.items() if _count(count)}
    order = sorted(counts, key=lambda reason: -counts[reason])
    found = {reason: counts[reason] for reason in order[:MOST_REASONS]}
    if rest := order[MOST_REASONS:]:
        found[f"{len(rest)} more reasons"] = sum(counts[reason] for reason in rest)
    return found


def _count(value: Any) -> float:
    """Returns a count that can be drawn."""
    return float(value) if value is not None and math.isfinite(value) and value > 0 else 0.0


def _read_margins(result: Mapping[str, Any]) -> dict[float, float]:
    """Returns how many pairs have which margin."""
    found = Counter[float]()
    for text, count in result["margins"].items():
        try:
            margin = float(text)
        except ValueError:
            continue
        if math.isfinite(margin) and _count(count):
            found[margin] += _count(count)  # type: ignore[assignment]
    return dict(sorted(found.items()))


def _draw_funnel(title: str, bars: Sequence[Bar]) -> Figure:
    width = PANEL_SIZE[0]
    figure = Figure(figsize=(width, 0.36 * len(bars) + 0.4))
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 1 - 0.36 / (0.36 * len(bars) + 0.4)))
    most = max(bar.start + bar.length for bar in bars)
    for row, bar in enumerate(bars):
        colour = COLOURS["lost" if bar.is_lost else "chosen"]
        axes.barh(row + 0.2, bar.length / most, left=bar.start / most, height=0.34, color=colour)
        count = f"−{bar.length:,.0f}" if bar.is_lost else f"{bar.length:,.0f}"
        axes.text(0, row - 0.2, bar.name, size=8, va="center")
        axes.text(1, row - 0.2, count, size=8, va="center", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title(title, loc="left", size=10)
    return figure


def _draw_margins(margins: Mapping[float, float]) -> Figure:
    values, counts = np.array(list(margins)), np.array(list(margins.values()))
    figure, axes = _make_axes("Margins", "margin of the pair", "pairs")
    if len(values) <= MOST_BARS:
        gaps = np.diff(values)
        axes.bar(values, counts, width=0.8 * (gaps.min() if len(gaps) else 1.0), color=COLOURS["chosen"])
    else:
        heights, edges = np.histogram(values, bins=MOST_BARS, weights=counts)
        axes.stairs(heights, edges, fill=True, color=COLOURS["chosen"])
    if len(values) <= 12:
        axes.set_xticks(values, [f"{value:g}" for value in values])
    return figure


def _draw_lengths(words: Mapping[str, Sequence[int]]) -> Figure:
    longest = np.array([count for of in words.values() for count in of])
    usual, most = int(np.percentile(longest, 99)), int(longest.max())
    top = max(1, most if most <= 1.5 * usual else usual)
    bins = min(MOST_BARS, top + 1)
    edges = np.linspace(0, top + 1, bins + 1)
    unit = "words" + (" (the last bar: and more)" if most > top else "")
    figure, axes = _make_axes("Lengths of answers", unit, "pairs")
    for side, dashes in (("chosen", "-"), ("rejected", "--")):
        heights, _ = np.histogram(np.minimum(words[side], top), bins=edges)
        axes.stairs(heights, edges, fill=True, color=COLOURS[side], alpha=0.2)
        axes.stairs(heights, edges, color=COLOURS[side], linestyle=dashes, linewidth=1.6, label=side)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _make_axes(title: str, below: str, beside: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=PANEL_SIZE)
    axes: Any = figure.add_axes((0.16, 0.165, 0.8, 0.745))
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(below, size=9)
    axes.set_ylabel(beside, size=9)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def draw_all(
    figures: Mapping[str, Drawing], label: str, problems: list[str]
) -> tuple[dict[str, list[Markup]], dict[str, dict[str, File]]]:
    """Returns the figures to stand inside the page, and what writes them beside it, by section."""
    drawn: dict[str, list[Markup]] = {"funnel": [], "figures": []}
    files: dict[str, dict[str, File]] = {}
    for name, figure in figures.items():
        try:
            svg = inline_figure(figure.draw, name_part(name, label), clean_text(figure.description))
        except Exception as error:  # of values that no axis can be drawn for
            problems.append(f"the figure of {name} cannot be drawn ({type(error).__name__}: {error})")
            continue
        drawn[figure.part].append(svg)
        files.setdefault(figure.part, {})[name_part(f"{name}.png", label)] = partial(write_figure, figure.draw)
    return drawn, files
