"""The picture of the quickstart: one pair, its picture and another one, and what is left of each model's preference."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from mmdpo.files import file_inside, read_json
from mmdpo.report.figures import GREY, VARIANT_COLOURS, VARIANT_LABELS
from mmdpo.report.reading import fit

PAIR, PICTURE = "pair.json", "preference.png"
SIZE, WIDTH = (9.6, 4.0), 44
"""Inches, and characters of a line of a caption."""
MOST_OUTSIDE = 70.0
"""Per cent up to which a bar's figure stands beside it, away from the line at 100."""
_PAIR = {"image": str, "other_image": str, "chosen": str, "rejected": str}


@dataclass(frozen=True)
class ShownPair:
    """A preference pair, its picture, and that of the other scene."""

    image: Path
    other_image: Path
    chosen: str
    rejected: str


def read_pair(folder: Path, problems: list[str]) -> ShownPair | None:
    """Reads pair.json and finds its pictures; None, and a line in `problems`, where that cannot be."""
    if not (folder / PAIR).is_file():
        return None  # a quickstart of an earlier version
    try:
        record = fit(read_json(folder / PAIR), _PAIR, PAIR, problems)
        image, other = (file_inside(folder, record[name]) for name in ("image", "other_image"))
        return ShownPair(image, other, record["chosen"], record["rejected"])
    except (OSError, ValueError) as error:
        problems.append(f"{folder / PAIR} cannot be read ({error})")
        return None


def share_left(scores: Mapping[str, Any]) -> float | None:
    """Returns which share of a preference is left with another picture, in per cent; None where there is none.

    The preference is the mean margin of the rewards of chosen and rejected answer, on all held-out pairs.
    """
    real, other = scores.get("margin_real"), scores.get("margin_other")
    return None if real is None or other is None or real <= 0 else 100.0 * other / real


def draw(pair: ShownPair, variants: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the two pictures above the two answers, and beside them a bar for each variant."""
    figure = Figure(figsize=SIZE)
    shown = ((pair.image, "the picture of the pair"), (pair.other_image, "another picture"))
    for place, (path, title) in enumerate(shown):
        axes: Any = figure.add_axes((0.02 + 0.235 * place, 0.31, 0.215, 0.52))
        with Image.open(path) as image:
            axes.imshow(image.convert("RGB"), interpolation="nearest")
        axes.set_title(title, size=10, loc="left")
        axes.set_axis_off()
    height = 0.235
    for title, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        lines = textwrap.wrap(answer, WIDTH)
        figure.text(0.02, height, title, size=9, weight="bold", va="top")
        figure.text(0.115, height, "\n".join(lines), size=9, va="top")
        height -= 0.05 * len(lines) + 0.02
    left = {name: share for name, of in variants.items() if (share := share_left(of)) is not None}
    bars: Any = figure.add_axes((0.645, 0.17, 0.335, 0.66))
    for row, (name, share) in enumerate(left.items()):
        bars.barh(-row, share, height=0.55, color=VARIANT_COLOURS[list(variants).index(name) % len(VARIANT_COLOURS)])
        inside = share > MOST_OUTSIDE
        where: dict[str, Any] = dict(x=share - 2, ha="right", color="white") if inside else dict(x=max(share, 0.0) + 2)
        bars.text(y=-row, s=f"{share:.0f} %", va="center", size=11, **where)
    bars.axvline(100, color=GREY, linewidth=1)
    bars.set_yticks([-row for row in range(len(left))], [VARIANT_LABELS.get(name, name) for name in left], size=11)
    bars.tick_params(length=0)
    bars.set_xlim(min([0.0, *left.values()]), max([118.0, *(share + 18 for share in left.values())]))
    bars.set_xticks([0, 50, 100], ["0", "50", "100 %: with\nits own picture"])
    for side in ("top", "right", "left"):
        bars.spines[side].set_visible(False)
    figure.text(0.02, 0.94, "One pair, two pictures", size=12, weight="bold")
    figure.text(0.53, 0.94, "How much of its preference a model keeps", size=12, weight="bold")
    figure.text(0.53, 0.88, "when the picture is swapped for another one", size=10)
    return figure
