"""Shares in per cent as bars with their intervals, and the line of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from mmdpo.report.figures import GREY, VARIANT_COLOURS, shorten
from mmdpo.tables import show_interval

WIDTH, ROW, ABOVE, BELOW = 4.6, 0.44, 0.32, 0.42
"""Inches of the figure, of a bar with its name, and of what stands above and below them."""
SCALE = 1.52
"""The width in times of 100 %: the values stand beside the bars."""


@dataclass(frozen=True)
class Bar:
    """A share in per cent with its interval, where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def shown(self) -> str:
        """The value and its interval."""
        return f"{show_interval(self.value, self.low, self.high, 1)} %"


def draw_bars(title: str, bars: Sequence[Bar], chance: float | None = None) -> Figure:
    """Draws a bar for each share, the first in another colour, with a dashed line at chance."""
    height = ABOVE + ROW * len(bars) + BELOW
    figure = Figure(figsize=(WIDTH, height))
    axes: Any = figure.add_axes((0.015, BELOW / height, 0.97, ROW * len(bars) / height))
    for row, bar in enumerate(bars):
        colour = VARIANT_COLOURS[1] if row == 0 else VARIANT_COLOURS[4]
        axes.barh(row + 0.2, bar.value, height=0.36, color=colour)
        ends = [end for end in (bar.low, bar.high) if end is not None and math.isfinite(end)]
        if len(ends) == 2:
            axes.plot(ends, [row + 0.2] * 2, color=GREY, linewidth=1.4)
            for end in ends:
                axes.plot([end, end], [row + 0.1, row + 0.3], color=GREY, linewidth=1.4)
        axes.text(0, row - 0.2, shorten(bar.name), size=9, va="center")
        axes.text(104, row + 0.2, bar.shown, size=9, va="center")
    if chance is not None:
        axes.axvline(chance, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, 100 * SCALE)
    axes.set_ylim(len(bars) - 0.45, -0.5)
    axes.set_xticks(range(0, 101, 25), [f"{at}\nchance" if at == chance else str(at) for at in range(0, 101, 25)])
    axes.tick_params(labelsize=8)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_title(title, loc="left", size=10)
    return figure


def say_bars(title: str, bars: Sequence[Bar]) -> str:
    """Returns in words what the bars show."""
    return f"{title}: {'; '.join(f'{bar.name} {bar.shown}' for bar in bars)}"
