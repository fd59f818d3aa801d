"""How figures are drawn, as files and inside a page; and the curves of training, sorted from the trainers' logs.

Drawn with Matplotlib's object interface, which keeps no global state and needs no display.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from mmdpo.report.labels import label_logged

GREY = "#57606a"
_INK = "#123456"
"""Stands for the text colour of the page while Matplotlib draws; no line has this colour."""
_SETTINGS = {
    "svg.hashsalt": "mmdpo",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": False,  # a page reads the values under the pointer from the points of its lines
}
_INLINE = {
    **_SETTINGS,
    "svg.fonttype": "none",
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": _INK for part in ("edge", "label")},
}
_COORDINATES = re.compile(r' (?:d|x|y|transform)="[^"]*"')
_DECIMALS, _LOG_DECIMALS = re.compile(r"(\d\.\d{3})\d+"), re.compile(r"(\d\.\d{5})\d+")
"""A thousandth of a point is enough for the lines of a page, unless a log scale pulls the least values apart."""
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""Leaves the metadata block out of SVG files, so that equal runs give equal files."""
_LONGEST_NAME = 48
"""Characters of a name in a picture; pages and tables have all of it."""

VARIANT_LABELS = {"start": "Start", "dpo": "DPO", "mdpo": "mDPO", "sft_chosen": "SFT on chosen"}
"""What readers see of the quickstart's variants; another name stands as it is."""
VARIANT_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#7f7f7f")
"""From the palette of Okabe and Ito. Like the next, each stands out by 3 : 1 from a white page and from a dark one."""
PART_COLOURS = ("#7f7f7f", "#a6761d", "#7570b3", "#e7298a", "#1b9e77")
"""For the terms and the cells inside one variant: other hues, so that none is taken for a variant."""
RUN_COLOURS = (
    *VARIANT_COLOURS[:4], "#a6761d", "#7b5cd6", "#0e8fa8", "#d12b57", "#6b8e23", "#b14fc5", "#3d7be0", "#7f7f7f",
)  # fmt: skip
"""For runs that are laid over each other."""
DASHES = ("-", (0, (5, 1.8)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (1.2, 1.2)))
"""So that colour is not the only cue; lengths are in widths of the line."""
LINE_WIDTH, SWATCH_WIDTH = 1.7, 2.4
"""Points of a line, and pixels of one in the legend of a page."""

COMPARED = ("rewards/margins", "rewards/image_margins", "logps/chosen", "grad_norm")
"""Metrics of which one panel shows all variants."""
FIRST = (
    "eval_rewards/accuracies", "rewards/accuracies", "rewards/margins", "rewards/image_accuracies",
    "rewards/image_margins", "rewards/chosen", "loss",
)  # fmt: skip
"""Metrics whose panels are seen first, as far as they are logged and up to `SHOWN_PANELS`."""
SHOWN_PANELS = 6
_DRAWN = r"loss(/.*)?|rewards/.*|logps/chosen|grad_norm|eval_loss|eval_rewards/.*(margins|accuracies)"
CELL_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/corrupted")
MOST_POINTS = 240
"""A line of more points is drawn as means over equal numbers of them."""
PANEL_SIZE, PANEL_AXES = (3.7, 2.7), (0.19, 0.165, 0.765, 0.745)
"""Inches of a panel; left, bottom, width and height of the axes of one that stands alone, as shares of it."""

History: TypeAlias = Sequence[Mapping[str, Any]]
"""A trainer's `log_history`: one record per logged step, and summaries with other keys."""


def write_figure(draw: Callable[[], Figure], path: Path) -> Path:
    """Writes what `draw` makes as the PNG `path` and an SVG beside it; returns the path of the PNG."""
    with matplotlib.rc_context(_SETTINGS):
        figure = draw()
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine(None)  # laid out once, and drawn once for each file
        figure.savefig(path, dpi=144)
        figure.savefig(path.with_suffix(".svg"), metadata=_NO_METADATA)
    return path


def inline_figure(
    draw: Callable[[], Figure], prefix: str, description: str, shortened: re.Pattern[str] = _DECIMALS
) -> Markup:
    """Returns what `draw` makes as an `<svg>` element to stand inside a page.

    It is transparent, takes text colour and font from the page, refers to nothing outside itself, and its ids begin
    with `prefix`, so that figures on one page share none. White and grey become the page's paper and soft text.
    """
    with matplotlib.rc_context(_INLINE):
        drawn = io.StringIO()
        draw().savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    head, _, inside = drawn.getvalue().partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    for written, own in ((_INK, "currentColor"), ("#ffffff", "var(--paper)"), (GREY, "var(--soft)")):
        inside = inside.replace(written, own)
    inside = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", inside)
    inside = _COORDINATES.sub(lambda found: shortened.sub(r"\1", found[0]), inside)
    element = Markup('<svg role="img" aria-label="{}" viewBox="{}">{}')
    return element.format(description, box.group(1) if box else "", Markup(inside))


def name_rows(axes: Any, names: Sequence[str], size: float = 8) -> None:
    """Gives the rows of a figure their names, the first one on top, and light vertical lines to read them by."""
    axes.set_yticks(range(len(names)), [shorten(name) for name in names], size=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)


def shorten(name: str) -> str:
    """Returns a name that leaves room for the picture that it stands in."""
    text = " ".join(name.split())
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


@dataclass(frozen=True)
class Line:
    """One metric of one variant over the steps where it was logged, perhaps in a band from `low` to `high`."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    colour: str
    dashes: Any
    place: int | None = None
    """Where it stands in the legend that all panels share; None if each panel has its own."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One small plot; its vertical axis has `limits` where panels have to be comparable."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None


def curve_panels(histories: Mapping[str, History]) -> list[Panel]:
    """Sorts the logs into panels: metrics that compare variants, then loss terms and rewards of each variant.

    A panel without a line is left out, so a variant that logs fewer metrics just shows in fewer panels.
    """
    logs = [(VARIANT_LABELS.get(name, name), log) for name, log in histories.items()]
    compared = [
        _panel(label_logged(key).title, label_logged(key).unit, VARIANT_COLOURS, ((log, key, of) for of, log in logs))
        for key in COMPARED
    ]
    losses, rewards = list[Panel](), list[Panel]()
    for label, log in logs:
        terms = list(dict.fromkeys(key for record in log for key in record if key.startswith("loss/")))
        # The loss of an objective with one term is that term: drawing both would hide one under the other.
        parts = [(log, key, _name_part(key)) for key in (("loss", *terms) if len(terms) != 1 else terms)]
        losses.append(_panel(f"{label}: loss and its terms", "loss", PART_COLOURS, parts))
        parts = [(log, key, _name_part(key)) for key in CELL_REWARDS]
        rewards.append(_panel(f"{label}: rewards", "reward", PART_COLOURS, parts))
    return [panel for panel in (*compared, *losses, *_same_limits(rewards)) if panel.lines]


def _name_part(key: str) -> str:
    """Returns what a loss or a reward is called in a panel of one variant, whose title says the rest."""
    title = label_logged(key).title
    return title.removeprefix("Loss: ").removeprefix("Reward of ").removeprefix("Reward ")


def overlay_panels(histories: Mapping[str, Sequence[History]]) -> list[Panel]:
    """Sorts the logs of runs into one panel per metric, with one line for each run; `FIRST` come first.

    A run of several logs (repetitions with other seeds) is drawn as their mean, in a band from the least to the
    greatest. Long logs are drawn as means over stretches of steps.
    """
    logged = dict.fromkeys(key for logs in histories.values() for log in logs for record in log for key in record)
    own = [key for key in logged if re.fullmatch(_DRAWN, key)]
    keys = list(dict.fromkeys((*(key for key in FIRST if key in logged), *own, "grad_norm")))
    if sum(key.startswith("loss/") for key in keys) == 1:
        keys = [key for key in keys if key != "loss"]  # it is that term
    panels = {}
    for key in keys:
        lines = []
        for place, (name, logs) in enumerate(histories.items()):
            found = [line for log in logs if (line := _line(log, key, name, place, RUN_COLOURS)).steps]
            if found:
                dashes = DASHES[(place + place // len(RUN_COLOURS)) % len(DASHES)]
                lines.append(replace(_average(found), place=place, dashes=dashes))
        panels[key] = Panel(label_logged(key).title, label_logged(key).unit, tuple(lines))
    rewards = [key for key in CELL_REWARDS if key in panels]
    panels |= zip(rewards, _same_limits([panels[key] for key in rewards]), strict=True)
    return [panel for panel in panels.values() if panel.lines]


def _panel(title: str, unit: str, colours: Sequence[str], of: Iterable[tuple[History, str, str]]) -> Panel:
    """Returns a panel of logs, each with the key that is drawn and a label."""
    lines = (_line(log, key, label, place, colours) for place, (log, key, label) in enumerate(of))
    return Panel(title, unit, tuple(line for line in lines if line.steps))


def _line(log: History, key: str, label: str, place: int, colours: Sequence[str]) -> Line:
    scale = label_logged(key).scale
    points = [
        (float(record["step"]), scale * float(record[key]))
        for record in log
        if isinstance(record.get(key), int | float) and isinstance(record.get("step"), int | float)
    ]
    stretch = -(-len(points) // MOST_POINTS) or 1
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    steps, values = (tuple(fmean(point[axis] for point in part) for part in parts) for axis in (0, 1))
    return Line(label, steps, values, colours[place % len(colours)], DASHES[place % len(DASHES)])


def _average(lines: Sequence[Line]) -> Line:
    """Returns the mean of repetitions at each step that any of them has logged, and the band that they lie in."""
    if len(lines) == 1:
        return lines[0]
    by_step: dict[float, list[float]] = {}
    for line in lines:
        for step, value in zip(line.steps, line.values, strict=True):
            by_step.setdefault(step, []).append(value)
    steps, values = zip(*sorted(by_step.items()), strict=True)
    low, high = tuple(map(min, values)), tuple(map(max, values))
    return replace(lines[0], steps=steps, values=tuple(map(fmean, values)), low=low, high=high)


def _same_limits(panels: Sequence[Panel]) -> list[Panel]:
    values = [value for panel in panels for line in panel.lines for value in line.values if math.isfinite(value)]
    if not values:
        return list(panels)
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.1
    return [replace(panel, limits=(low - pad, high + pad)) for panel in panels]


def draw_panels(panels: Sequence[Panel], path: Path) -> Path | None:
    """Draws panels on one sheet, as the PNG `path` and an SVG beside it; returns the path, None without a panel."""
    return write_figure(partial(_draw_sheet, panels), path) if panels else None


def panel_svg(panel: Panel, prefix: str) -> Markup:
    """Returns one panel to stand inside a page: an `<svg>` element whose ids begin with `prefix`, and what it holds.

    The element around it says where the axes lie and which line is which, so that `curves.js` can read values from the
    lines themselves, smooth them, and lay them on a log scale.
    """
    drawn: list[Any] = []

    def draw() -> Figure:
        figure = Figure(figsize=PANEL_SIZE)
        drawn.append(figure.add_axes(PANEL_AXES))  # a layout that measures every text takes three times as long
        _draw_panel(drawn[-1], panel)
        return figure

    # For readers who do not see it: where each line begins and ends.
    ends = (f"{line.label} from {line.values[0]:.3g} to {line.values[-1]:.3g}" for line in panel.lines)
    can_be_log = _can_be_log(panel)
    shortened = _LOG_DECIMALS if can_be_log else _DECIMALS
    svg = inline_figure(draw, prefix, f"{panel.title} by step: {'; '.join(ends)}", shortened)
    (left, right), (bottom, top) = drawn[-1].get_xlim(), drawn[-1].get_ylim()
    x, y, width, height = PANEL_AXES
    box = (72 * PANEL_SIZE[0] * x, 72 * PANEL_SIZE[0] * (x + width))  # points, from the upper left corner
    rows = (72 * PANEL_SIZE[1] * (1 - y), 72 * PANEL_SIZE[1] * (1 - y - height))
    axes = " ".join(f"{number:.10g}" for number in (*box, *rows, left, right, bottom, top))
    lines = [[f"{prefix}-{_name_line(place, line)}", line.label, line.colour] for place, line in enumerate(panel.lines)]
    element = Markup('<div class="plot" tabindex="0" data-axes="{}" data-lines="{}"{}>{}</div>')
    return element.format(axes, json.dumps(lines, ensure_ascii=False), Markup(" data-log") * can_be_log, svg)


def _can_be_log(panel: Panel) -> bool:
    """Returns whether a log scale says something: of positive values that are no shares."""
    values = (value for line in panel.lines for value in (*line.values, *line.low))
    return not panel.unit.startswith("%") and all(math.isfinite(value) and value > 0 for value in values)


def _name_line(place: int, line: Line) -> str:
    """Returns the id of a line in its panel: those of one run have the same in all panels."""
    return f"line{place}" if line.place is None else f"series{line.place}"


def shared_lines(panels: Sequence[Panel]) -> dict[int, tuple[Line, str]]:
    """Returns the lines of the legend that panels share, by their places: one line each, and its SVG dash pattern."""
    lines = {line.place: line for panel in panels for line in panel.lines if line.place is not None}
    return {place: (lines[place], _dash_pattern(lines[place].dashes)) for place in sorted(lines)}


def _dash_pattern(dashes: Any) -> str:
    return "none" if isinstance(dashes, str) else " ".join(f"{SWATCH_WIDTH * length:g}" for length in dashes[1])


def _draw_sheet(panels: Sequence[Panel]) -> Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_SIZE
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    for place, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, place), panel)
    # A panel that has no legend of its own has lines of the legend that all share.
    sharing = [axes for axes in figure.axes if axes.get_legend() is None]
    handles = {line.get_label(): line for axes in sharing for line in axes.lines}
    if handles:
        figure.legend(handles=list(handles.values()), loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    return figure


def _draw_panel(axes: Any, panel: Panel) -> None:
    for place, line in enumerate(panel.lines):
        look: dict[str, Any] = dict(color=line.colour, linestyle=line.dashes, linewidth=LINE_WIDTH, markersize=3)
        look["gid"] = _name_line(place, line)
        if len(line.steps) <= (30 if line.place is None else 1):  # a line of one point is not seen without
            look["marker"] = "o"
        axes.plot(line.steps, line.values, label=shorten(line.label), **look)
        if line.low:
            band: dict[str, Any] = dict(color=line.colour, alpha=0.15, linewidth=0, gid=f"band-series{line.place}")
            axes.fill_between(line.steps, line.low, line.high, **band)
    axes.set_title(shorten(panel.title), loc="left", size=10)
    axes.set_xlabel("step", size=9)
    axes.set_ylabel(panel.unit, size=9)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))  # so that numbers have room
    axes.yaxis.set_offset_position("right")  # of their power of ten, which would push the title out of the panel
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.margins(x=0.02)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    if all(line.place is None for line in panel.lines):
        axes.legend(fontsize=8, frameon=False, handlelength=2.6)
