"""The one layout of all pages: sections, rendered from `templates/` into HTML that needs no other file.

Templates escape every text that is put into them. What is text of a run stays text, whatever it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmdpo.report.curves import Panel, panel_svg, shared_lines
from mmdpo.report.thumbnails import make_thumbnail
from mmdpo.tables import Table

_TEMPLATES = Environment(
    loader=PackageLoader("mmdpo.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"make_thumbnail": make_thumbnail, "panel_svg": panel_svg, "shared_lines": shared_lines}


@dataclass(frozen=True)
class Curves:
    """Panels of curves on a page, side by side."""

    panels: Sequence[Panel]
    prefix: str
    """Begins the ids of what is drawn."""


@dataclass(frozen=True)
class Section:
    """A part of a page, and what is written beside the page for it."""

    id: str
    title: str
    html: Markup
    tables: Mapping[str, Table] = field(default_factory=dict)
    """File name without ending → a table, to be written as Markdown and CSV."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """File name → content, in place of a table's where the names are the same."""
    figures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    """File name without ending → a function that draws the PNG of the path it is given, and an SVG beside it."""
    curves: Curves | None = None
    """Curves whose legend switches lines on and off, which takes rules in the head of the page."""


@dataclass(frozen=True)
class Span:
    """A piece of an answer, all of it hallucinated or none of it."""

    text: str
    hallucinated: bool


@dataclass(frozen=True)
class MarkedAnswer:
    """An answer as readers see it, with what is wrong in it."""

    text: str
    hallucinated: tuple[str, ...] = ()
    """Objects named that are not in the scene."""
    missed: tuple[str, ...] = ()
    """Objects of the scene that were not named."""
    remark: str | None = None
    """What else there is to be said; None where both lists are known to be whole."""
    reasons: str = ""
    """What a judge wrote about the answer."""

    def spans(self) -> list[Span]:
        """Splits the text at the hallucinated words, whole words only; the spans joined give the text again."""
        words = sorted((word for word in self.hallucinated if word), key=len, reverse=True)
        if not words:
            return [Span(self.text, False)]
        pattern = "|".join(re.escape(word) for word in words)
        pieces = re.split(rf"(?<!\w)({pattern})(?!\w)", self.text, flags=re.IGNORECASE)
        # A split with one group alternates between text and separator.
        return [Span(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]

    def note(self) -> str:
        """Says in words what the marks show, for readers who do not see them."""
        found = (("hallucinated", self.hallucinated), ("missed", self.missed))
        said = [f"{kind}: {', '.join(words)}" for kind, words in found if words]
        if self.remark is not None:
            return " · ".join((*said, *([self.remark] if self.remark else [])))
        return " · ".join(said) or "nothing hallucinated, nothing missed"


def render(template: str, **values: Any) -> Markup:
    """Returns a file of `templates/` with the values, escaped, in their places."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def identify(text: str) -> str:
    """Returns a text as part of an id or of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "x"


def cut(text: str, most: int) -> str:
    """Returns the beginning of a text of more than `most` characters."""
    return text if len(text) <= most else f"{text[:most]} …"
