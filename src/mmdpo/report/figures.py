"""Pictures of a run: scenes with what each variant said of them, and the curves of training.

Drawn with Matplotlib's object interface, which keeps no global state and needs no display.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from mmdpo.report.curves import Panel, curve_panels
from mmdpo.report.runs import Answer, RunFolderError, ShownScene, read_histories, read_results, read_scenes
from mmdpo.report.wording import variant_label

RED = "#b3121d"
GREY = "#57606a"
INK = "#123456"
"""Stands for the text colour of the page while Matplotlib draws; no line has this colour."""
DRAWING = {"svg.hashsalt": "mmdpo", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
INLINE = {
    "svg.fonttype": "none",
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": INK for part in ("edge", "label")},
}
"""Settings under which a figure is drawn that `inline_svg` is to put into a page."""
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""Leaves the metadata block out of SVG files, so that equal runs give equal files."""
DOTS_PER_INCH = 144

PANEL_SIZE = (3.7, 2.7)
"""Inches, width and height; the lengths below are inches too."""
PANEL_AXES = (0.19, 0.165, 0.765, 0.745)
"""Left, bottom, width and height of the axes of a panel that stands alone, as shares of it."""
SCENE_WIDTH = 10.0
IMAGE_SIDE = 4 / 3
MARGIN = 0.25
LINE_HEIGHT = 0.19
CHARACTER_WIDTH = 0.0752
"""Of DejaVu Sans Mono, which ships with Matplotlib, at 9 points: 0.602 of its size, bold or not."""
LABEL_CHARACTERS = 15
LONGEST_NAME = 48
"""Characters of a name in a picture; pages and tables have all of it."""
CAPTION_CHARACTERS = 84


def draw_scenes(run_dir: str | Path) -> Path:
    """Draws the scenes of examples.json with each variant's answer as scenes.png and scenes.svg.

    Hallucinated words are red, bold and in brackets; what was missed is said in words. Returns the path of the PNG.
    Raises `RunFolderError` as `read_scenes` does, and where there is no scene to draw.
    """
    folder = Path(run_dir)
    scenes = read_scenes(folder)
    if not scenes:
        raise RunFolderError(f"{folder / 'examples.json'}: no examples, nothing to draw")
    with matplotlib.rc_context(DRAWING):
        blocks = [_scene_lines(scene) for scene in scenes]
        heights = [max(IMAGE_SIDE, len(lines) * LINE_HEIGHT) + MARGIN for lines in blocks]
        figure = Figure(figsize=(SCENE_WIDTH, sum(heights) + MARGIN))
        top = sum(heights)
        for scene, lines, height in zip(scenes, blocks, heights, strict=True):
            _draw_scene(figure, scene, lines, top)
            top -= height
        return _save(figure, folder / "scenes.png")


def draw_curves(run_dir: str | Path) -> Path | None:
    """Draws what the trainers logged, all panels on one sheet, as curves.png and curves.svg.

    Returns the path of the PNG, or None where no variant left a log. Raises `RunFolderError` as `read_results` and
    `read_histories` do.
    """
    folder = Path(run_dir)
    return draw_panels(curve_panels(read_histories(folder, read_results(folder)["variants"])), folder / "curves.png")


def draw_panels(panels: Sequence[Panel], path: Path) -> Path | None:
    """Draws panels on one sheet, as the PNG `path` and an SVG beside it; returns the path, None without a panel."""
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_SIZE
    with matplotlib.rc_context(DRAWING):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        for place, panel in enumerate(panels, start=1):
            _draw_panel(figure.add_subplot(rows, columns, place), panel)
        shared = {line.place: axes for panel, axes in zip(panels, figure.axes, strict=True) for line in panel.lines}
        handles = {
            line.get_label(): line for axes in shared.values() for line in axes.lines if axes.get_legend() is None
        }
        if handles:
            figure.legend(handles=list(handles.values()), loc="outside lower left", ncols=2, fontsize=9, frameon=False)
        return _save(figure, path)


def panel_svg(panel: Panel, prefix: str) -> str:
    """Returns one panel as an `<svg>` element to stand inside a page.

    It is transparent, takes text colour and font from the page, refers to nothing outside itself, and its ids begin
    with `prefix`, so that several panels on one page do not share any.
    """
    with matplotlib.rc_context({**DRAWING, **INLINE}):
        figure = Figure(figsize=PANEL_SIZE)
        _draw_panel(figure.add_axes(PANEL_AXES), panel)  # a layout that measures every text takes three times as long
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata=NO_METADATA)
    return inline_svg(drawn.getvalue(), prefix, panel.describe())


def inline_svg(drawn: str, prefix: str, description: str) -> str:
    """Returns what Matplotlib wrote as an `<svg>` element to stand inside a page, in the page's own colours.

    `INK` becomes the colour of text; white and grey become the page's paper and its colour of soft text.
    """
    head, _, inside = drawn.partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    for written, own in ((INK, "currentColor"), ("#ffffff", "var(--paper)"), (GREY, "var(--soft)")):
        inside = inside.replace(written, own)
    inside = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", inside)
    label = escape(description, quote=True)
    return f'<svg role="img" aria-label="{label}" viewBox="{box.group(1) if box else ""}">{inside}'


def shorten(name: str) -> str:
    """Returns a name that leaves room for the picture that it stands in."""
    text = " ".join(name.split())
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


@dataclass(frozen=True)
class _Word:
    """A word of the picture of scenes; `column` counts characters from the left edge of the text."""

    text: str
    column: int
    colour: str = "black"
    bold: bool = False


def _scene_lines(scene: ShownScene) -> list[list[_Word]]:
    """Lays out the text beside one scene: a heading, then each variant's answer and note."""
    heading = f"{scene.setting}: {', '.join(scene.truth)}"
    lines = [[_Word(heading, 0, bold=True)]]
    for variant, answer in scene.answers.items():
        wrapped = _wrap_answer(answer)
        wrapped[0].insert(0, _Word(shorten(variant_label(variant)), 0, bold=True))
        lines += wrapped
        if answer.missed:
            missed = textwrap.wrap(f"missed: {', '.join(answer.missed)}", CAPTION_CHARACTERS)
            lines += [[_Word(line, LABEL_CHARACTERS, GREY)] for line in missed]
    return lines


def _wrap_answer(answer: Answer) -> list[list[_Word]]:
    lines: list[list[_Word]] = [[]]
    column = LABEL_CHARACTERS
    for span in answer.spans():
        for text in [f"[{span.text}]"] if span.hallucinated else span.text.split():
            if column + len(text) > LABEL_CHARACTERS + CAPTION_CHARACTERS and lines[-1]:
                lines.append([])
                column = LABEL_CHARACTERS
            lines[-1].append(_Word(text, column, RED if span.hallucinated else "black", bold=span.hallucinated))
            column += len(text) + 1
    return lines


def _draw_scene(figure: Any, scene: ShownScene, lines: Sequence[Sequence[_Word]], top: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (MARGIN / width, (top - IMAGE_SIDE) / height, IMAGE_SIDE / width, IMAGE_SIDE / height), frameon=False
    )
    assert isinstance(scene.image, Path)  # `read_scenes` raises for others
    with Image.open(scene.image) as image:
        # "nearest" keeps the pixels of a small scene visible as pixels.
        axes.imshow(image.convert("RGB"), interpolation="nearest")
    axes.set_axis_off()
    left = 2 * MARGIN + IMAGE_SIDE
    for number, line in enumerate(lines):
        for word in line:
            figure.text(
                (left + word.column * CHARACTER_WIDTH) / width,
                (top - number * LINE_HEIGHT) / height,
                word.text,
                color=word.colour,
                weight="bold" if word.bold else "normal",
                family="DejaVu Sans Mono",
                size=9,
                va="top",
            )


def _draw_panel(axes: Any, panel: Panel) -> None:
    for line in panel.lines:
        few = len(line.steps) <= 30
        axes.plot(
            line.steps,
            line.values,
            label=shorten(line.label),
            color=line.colour,
            linestyle=line.dashes,
            linewidth=1.6,
            marker="o" if few and line.place is None else None,
            markersize=3,
            gid=None if line.place is None else f"series{line.place}",
        )
        if line.low:
            band: dict[str, Any] = dict(color=line.colour, alpha=0.15, linewidth=0, gid=f"band-series{line.place}")
            axes.fill_between(line.steps, line.low, line.high, **band)
    axes.set_title(shorten(panel.title), loc="left", size=10)
    axes.set_xlabel("step", size=9)
    axes.set_ylabel(panel.unit, size=9)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))  # so that numbers have room
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.margins(x=0.02)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    if all(line.place is None for line in panel.lines):
        axes.legend(fontsize=8, frameon=False, handlelength=2.6)


def _save(figure: Any, path: Path) -> Path:
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not twice for each file
    figure.savefig(path, dpi=DOTS_PER_INCH)
    figure.savefig(path.with_suffix(".svg"), metadata=NO_METADATA)
    return path
