"""The one layout of all pages: sections, rendered from `templates/` into HTML that needs no other file.

Templates escape every text that is put into them. What is text of a run stays text, whatever it says. Pictures, which
anybody may have made, stand in a page as small copies.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from mmdpo.files import Unshown, UnusableFileError, check_regular
from mmdpo.report.figures import SHOWN_PANELS, Panel, panel_svg, shared_lines
from mmdpo.tables import Table
from mmdpo.upright import to_rgb

LONGEST_SIDE = 480
"""Pixels of a picture on a page, which a click shows in full."""
SMALL = 128
"""Pictures of up to so many pixels across keep their pixels, which are shown as pixels."""
JPEG_QUALITY = 82
MOST_PIXELS = 80_000_000
"""A larger picture is not decoded; Pillow warns from 89 million on."""
MOST_PICTURE_BYTES = 256 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pictures of other formats are not opened: Pillow hands EPS, for one, to another program. MPO is a JPEG to it."""

Picture: TypeAlias = "Path | Image.Image | Unshown"
File: TypeAlias = str | Callable[[Path], object]
"""The text of a file, or, of a PNG, what draws it and an SVG beside it."""


@dataclass(frozen=True)
class Curves:
    """Panels of curves on a page, side by side; `prefix` begins the ids of what is drawn."""

    panels: Sequence[Panel]
    prefix: str


@dataclass(frozen=True)
class Headline:
    """What a section comes to: a sentence, one small table, and what a reader of them has to know."""

    title: str
    anchor: str
    """The id of the section that says more."""
    text: str
    table: Table | None = None
    quiet: frozenset[str] = frozenset()
    """Rows of the table that are there to be compared with."""
    notes: tuple[str, ...] = ()
    files: Mapping[str, File] = field(default_factory=dict)
    """What is written beside the page for it, where its section writes nothing of it."""


@dataclass(frozen=True)
class Section:
    """A part of a page, and what is written beside the page for it."""

    id: str
    title: str
    html: Markup
    files: Mapping[str, File] = field(default_factory=dict)
    """What is written beside the page, by file name."""
    curves: Curves | None = None
    """Curves whose legend switches lines on and off, which takes rules in the head of the page."""
    headline: Headline | None = None
    """What stands of it at the top of a report."""
    in_menu: bool = True


class Span(NamedTuple):
    """A piece of an answer, all of it hallucinated or none of it."""

    text: str
    hallucinated: bool


@dataclass(frozen=True)
class MarkedAnswer:
    """An answer as readers see it, with the objects named that are not in the scene, and those missed that are."""

    text: str
    hallucinated: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    remark: str | None = None
    """What else there is to be said; None where both lists are known to be whole."""
    reasons: str = ""
    """What a judge wrote about the answer."""

    def spans(self) -> list[Span]:
        """Splits the text at the hallucinated words, whole words only; the spans joined give the text again."""
        words = sorted(filter(None, self.hallucinated), key=len, reverse=True)
        if not words:
            return [Span(self.text, False)]
        pattern = "|".join(map(re.escape, words))
        pieces = re.split(rf"(?<!\w)({pattern})(?!\w)", self.text, flags=re.IGNORECASE)
        # A split with one group alternates between text and separator.
        return [Span(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]

    def note(self) -> str:
        """Says in words what the marks show, for readers who do not see them."""
        found = (("hallucinated", self.hallucinated), ("missed", self.missed))
        said = [f"{kind}: {', '.join(words)}" for kind, words in found if words]
        remark = "" if said else "nothing hallucinated, nothing missed"
        return " · ".join(filter(None, (*said, remark if self.remark is None else self.remark)))


def render(template: str, **values: Any) -> Markup:
    """Returns a file of `templates/` with the values, escaped, in their places."""
    return Markup(TEMPLATES.get_template(template).render(values))


def render_page(
    title: str, summary: str, sections: Sequence[Section], missing: Sequence[str] = (), heads: Sequence[Headline] = ()
) -> Markup:
    """Returns a page: what it comes to, in short, then the sections, and last what is missing."""
    shown = [Section("in-short", "In short", render("in_short.html", heads=heads))] if heads else []
    shown += sections
    if missing:
        shown.append(Section("missing", "What is missing", render("missing.html", lines=list(dict.fromkeys(missing)))))
    return render("page.html", title=title, summary=summary, sections=shown)


def render_parts(
    template: str,
    titles: Mapping[str, str],
    label: str,
    files: Mapping[str, Mapping[str, File]],
    *,
    sentence: str,
    key: Table,
    **values: Any,
) -> list[Section]:
    """Returns the parts of a template, by their titles, as sections of a page that is about this folder alone.

    Under a label they stand among sections of other folders: the first is in the menu, and what the folder comes to, in
    a sentence and a table, is on top of the page. `files` are written beside it, by part.
    """
    before, sections = f"{label}: " if label else "", list[Section]()
    values |= {"is_page": not label, "sentence": sentence, "key": key}
    for part, title in titles.items():
        own, title = name_part(part, label), f"{before}{title}"
        head = Headline(title, own, sentence, key) if label and not sections else None
        html = render(template, part=part, **values)
        sections.append(Section(own, title, html, files.get(part, {}), headline=head, in_menu=not (label and sections)))
    return sections


def name_part(part: str, label: str) -> str:
    """Returns the id, or file name, of something of a folder: with its label, where it stands among other folders."""
    return f"{identify(label)}-{part}" if label else part


def breakable(text: str) -> Markup:
    """Returns a name, escaped, that may be broken after its strokes, and so nowhere in a word."""
    return Markup(re.sub(r"(?<=\w{3})([_/])(?=\w{3})", r"\1<wbr>", str(escape(text))))


def table_files(name: str, table: Table, label: str = "") -> dict[str, File]:
    """Returns a table as Markdown and as CSV; of a folder among others, its label is in the names."""
    return {name_part(f"{name}.md", label): table.markdown(), name_part(f"{name}.csv", label): table.csv()}


def identify(text: str) -> str:
    """Returns a text as part of an id or of a file name."""
    return re.sub(r"[^\w-]+", "-", text).strip("-") or "x"


def cut(text: str, most: int) -> str:
    """Returns the beginning of a text of more than `most` characters."""
    return text if len(text) <= most else f"{text[:most]} …"


class Thumbnail(NamedTuple):
    """A picture as a page holds it: a data URI, or why it cannot be shown."""

    uri: str = ""
    is_small: bool = False
    why: str = ""


def make_thumbnail(picture: Picture | bytes | Thumbnail | None, longest: int = LONGEST_SIDE) -> Thumbnail:
    """Returns a copy of a picture, as training sees it, of at most `longest` pixels a side, or why it cannot be shown.

    Bytes are those of an encoded picture. A copy that was made already stays as it is.
    """
    if isinstance(picture, Thumbnail):
        return picture
    try:
        if isinstance(picture, Unshown):
            return Thumbnail(why=f" not shown: {picture.reason}")
        if picture is None:
            raise FileNotFoundError
        if isinstance(picture, bytes):
            with open_picture(picture) as opened:
                return _encode(opened, longest)
        return _encode_file(picture, longest) if isinstance(picture, Path) else _encode(picture, longest)
    except FileNotFoundError:
        return Thumbnail(why=": the picture is missing")
    except UnusableFileError as error:
        return Thumbnail(why=f" not shown: {error}")
    # Decoders raise nearly anything on broken bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception as error:
        return Thumbnail(why=f" not shown: it is damaged or no picture ({type(error).__name__})")


def open_picture(source: Path | bytes) -> Image.Image:
    """Opens a picture, not decoded yet; raises UnusableFileError for one of too many pixels, OSError for no picture."""
    if isinstance(source, Path):
        check_regular(source, most=MOST_PICTURE_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UnusableFileError(f"it is too large: {error}") from error
    if opened.width * opened.height > MOST_PIXELS:
        opened.close()
        raise UnusableFileError(f"it has {opened.width} × {opened.height} pixels, more than {MOST_PIXELS:,}")
    return opened


@cache
def _encode_file(path: Path, longest: int) -> Thumbnail:
    with open_picture(path) as image:
        return _encode(image, longest)


def _encode(image: Image.Image, longest: int) -> Thumbnail:
    is_small = max(image.size) <= SMALL
    copy, buffer, kind = to_rgb(image), io.BytesIO(), "png" if is_small else "jpeg"
    copy.thumbnail((longest, longest))
    copy.save(buffer, kind, quality=JPEG_QUALITY, optimize=True)
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", is_small)


TEMPLATES = Environment(
    loader=PackageLoader("mmdpo.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {
    "breakable": breakable,
    "make_thumbnail": make_thumbnail,
    "panel_svg": panel_svg,
    "shared_lines": shared_lines,
    "shown_panels": SHOWN_PANELS,
}
