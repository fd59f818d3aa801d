"""What all figures share: how Matplotlib draws them, as files and inside a page.

Drawn with Matplotlib's object interface, which keeps no global state and needs no display.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

GREY = "#57606a"
_INK = "#123456"
"""Stands for the text colour of the page while Matplotlib draws; no line has this colour."""
_SETTINGS = {"svg.hashsalt": "mmdpo", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
_INLINE = {
    **_SETTINGS,
    "svg.fonttype": "none",
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": _INK for part in ("edge", "label")},
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
"""Leaves the metadata block out of SVG files, so that equal runs give equal files."""
_DOTS_PER_INCH = 144
_LONGEST_NAME = 48
"""Characters of a name in a picture; pages and tables have all of it."""


def write_figure(draw: Callable[[], Figure], path: Path) -> Path:
    """Writes what `draw` makes as the PNG `path` and an SVG beside it; returns the path of the PNG."""
    with matplotlib.rc_context(_SETTINGS):
        figure = draw()
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, not twice for each file
        figure.savefig(path, dpi=_DOTS_PER_INCH)
        figure.savefig(path.with_suffix(".svg"), metadata=_NO_METADATA)
    return path


def inline_figure(draw: Callable[[], Figure], prefix: str, description: str) -> Markup:
    """Returns what `draw` makes as an `<svg>` element to stand inside a page.

    It is transparent, takes text colour and font from the page, refers to nothing outside itself, and its ids begin
    with `prefix`, so that several figures on one page do not share any. White and grey become the page's paper and its
    colour of soft text.
    """
    with matplotlib.rc_context(_INLINE):
        drawn = io.StringIO()
        draw().savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    head, _, inside = drawn.getvalue().partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    for written, own in ((_INK, "currentColor"), ("#ffffff", "var(--paper)"), (GREY, "var(--soft)")):
        inside = inside.replace(written, own)
    inside = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", inside)
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
