"""The picture of a quickstart: scenes with what each variant said of them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from matplotlib.figure import Figure
from PIL import Image

from mmdpo.report.curves import VARIANT_LABELS
from mmdpo.report.figures import GREY, shorten, write_figure
from mmdpo.report.quickstart import ShownScene, read_quickstart
from mmdpo.report.shape import ReportError

RED = "#b3121d"
WIDTH, IMAGE_SIDE, MARGIN, LINE_HEIGHT = 10.0, 4 / 3, 0.25, 0.19
"""Inches."""
INDENT, CAPTION = 15, 84
"""Characters before an answer, where the variant stands, and of its longest line."""
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for the brackets around hallucinated words while lines are broken: no other text has them."""
_BRACKETS = str.maketrans({_OPEN: "[", _CLOSE: "]", "\N{NO-BREAK SPACE}": " "})

Piece: TypeAlias = tuple[int, str, str, str]
"""Number of a line, a text that begins at its left edge, its colour and weight."""


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
    blocks = [list(_write_lines(scene)) for scene in scenes]
    heights = [max(IMAGE_SIDE, (pieces[-1][0] + 1) * LINE_HEIGHT) + MARGIN for pieces in blocks]
    figure = Figure(figsize=(WIDTH, sum(heights) + MARGIN))
    top = sum(heights)
    for scene, pieces, height in zip(scenes, blocks, heights, strict=True):
        _draw_scene(figure, scene, pieces, top)
        top -= height
    return figure


def _write_lines(scene: ShownScene) -> Iterator[Piece]:
    """Yields the text beside one scene: a heading, then each variant's answer and what it missed.

    All characters are equally wide, bold or not, so the words of a line that have another look are a text of their own,
    with blanks in the places of the others.
    """
    yield 0, f"{scene.setting}: {', '.join(scene.truth)}", "black", "bold"
    number = 1
    for variant, answer in scene.answers.items():
        yield number, shorten(VARIANT_LABELS.get(variant, variant)), "black", "bold"
        said = "".join(
            f"{_OPEN}{span.text.replace(' ', chr(0xA0))}{_CLOSE}" if span.hallucinated else span.text
            for span in answer.spans()
        )
        for line in textwrap.wrap(said, CAPTION) or [""]:
            pieces = re.split(f"({_OPEN}.*?{_CLOSE})", line)  # every other one is hallucinated
            for is_wrong, colour, weight in ((0, "black", "normal"), (1, RED, "bold")):
                shown = (piece if place % 2 == is_wrong else " " * len(piece) for place, piece in enumerate(pieces))
                text = "".join(shown).translate(_BRACKETS).rstrip()
                if text:
                    yield number, " " * INDENT + text, colour, weight
            number += 1
        for line in textwrap.wrap(f"missed: {', '.join(answer.missed)}", CAPTION) if answer.missed else ():
            yield number, " " * INDENT + line, GREY, "normal"
            number += 1


def _draw_scene(figure: Figure, scene: ShownScene, pieces: Sequence[Piece], top: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (MARGIN / width, (top - IMAGE_SIDE) / height, IMAGE_SIDE / width, IMAGE_SIDE / height), frameon=False
    )
    assert isinstance(scene.image, Path)  # `read_quickstart` raises for others
    with Image.open(scene.image) as image:
        # "nearest" keeps the pixels of a small scene visible as pixels.
        axes.imshow(image.convert("RGB"), interpolation="nearest")
    axes.set_axis_off()
    left = (2 * MARGIN + IMAGE_SIDE) / width
    for number, text, colour, weight in pieces:
        place = (top - number * LINE_HEIGHT) / height
        figure.text(left, place, text, color=colour, weight=weight, family="DejaVu Sans Mono", size=9, va="top")
