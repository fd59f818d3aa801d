"""The picture of a quickstart: scenes with what each variant said of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from mmdpo.report.curves import VARIANT_LABELS
from mmdpo.report.figures import GREY, shorten, write_figure
from mmdpo.report.layout import MarkedAnswer
from mmdpo.report.quickstart import ShownScene, read_quickstart
from mmdpo.report.shape import ReportError

RED = "#b3121d"
WIDTH = 10.0
"""Inches, as the next four."""
IMAGE_SIDE = 4 / 3
MARGIN = 0.25
LINE_HEIGHT = 0.19
CHARACTER_WIDTH = 0.0752
"""Of DejaVu Sans Mono, which ships with Matplotlib, at 9 points: 0.602 of its size, bold or not."""
LABEL_CHARACTERS = 15
CAPTION_CHARACTERS = 84


def draw_scenes(run_dir: str | Path) -> Path:
    """Draws the scenes of examples.json with each variant's answer as scenes.png and scenes.svg.

    Hallucinated words are red, bold and in brackets; what was missed is said in words. Returns the path of the PNG.
    Raises ReportError as `read_quickstart` does, and where there is no scene to draw.
    """
    run = read_quickstart(run_dir)
    if not run.scenes:
        raise ReportError(f"{run.folder / 'examples.json'}: no examples, nothing to draw")
    return write_figure(partial(_draw, run.scenes), run.folder / "scenes.png")


def _draw(scenes: Sequence[ShownScene]) -> Figure:
    blocks = [_scene_lines(scene) for scene in scenes]
    heights = [max(IMAGE_SIDE, len(lines) * LINE_HEIGHT) + MARGIN for lines in blocks]
    figure = Figure(figsize=(WIDTH, sum(heights) + MARGIN))
    top = sum(heights)
    for scene, lines, height in zip(scenes, blocks, heights, strict=True):
        _draw_scene(figure, scene, lines, top)
        top -= height
    return figure


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
        wrapped[0].insert(0, _Word(shorten(VARIANT_LABELS.get(variant, variant)), 0, bold=True))
        lines += wrapped
        if answer.missed:
            missed = textwrap.wrap(f"missed: {', '.join(answer.missed)}", CAPTION_CHARACTERS)
            lines += [[_Word(line, LABEL_CHARACTERS, GREY)] for line in missed]
    return lines


def _wrap_answer(answer: MarkedAnswer) -> list[list[_Word]]:
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


def _draw_scene(figure: Figure, scene: ShownScene, lines: Sequence[Sequence[_Word]], top: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (MARGIN / width, (top - IMAGE_SIDE) / height, IMAGE_SIDE / width, IMAGE_SIDE / height), frameon=False
    )
    assert isinstance(scene.image, Path)  # `read_quickstart` raises for others
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
