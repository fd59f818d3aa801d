"""The one layout of all pages: sections, tables, pictures and curves as HTML that needs no other file."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TypeAlias

from PIL import Image

from mmdpo.files import Unshown, UnusableFileError, check_regular
from mmdpo.report.curves import Panel
from mmdpo.report.figures import panel_svg
from mmdpo.report.runs import Answer
from mmdpo.tables import Table

LONGEST_SIDE = 360
"""Pixels of a picture on a page."""
SMALL = 128
"""Pictures of up to so many pixels across are embedded as they are, and their pixels shown as pixels."""
JPEG_QUALITY = 82
MOST_PIXELS = 80_000_000
"""A larger picture is not decoded; Pillow warns from 89 million on."""
MOST_PICTURE_BYTES = 256 * 2**20
MOST_KEPT_BYTES = 64 * 2**10
"""A small picture whose file is larger is encoded anew."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pictures of other formats are not opened: Pillow hands EPS, for one, to another program."""

Picture: TypeAlias = "Path | Image.Image | Unshown"


@dataclass(frozen=True)
class Section:
    """A part of a page, and what is written beside the page for it."""

    id: str
    title: str
    html: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    """File name without ending → a table, to be written as Markdown and CSV."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """File name → content, for tables that somebody else wrote."""
    figures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    """File name without ending → a function that draws the PNG of the path it is given, and an SVG beside it."""
    rules: str = ""
    """CSS that belongs to this section alone."""


def page_html(title: str, summary: str, sections: Sequence[Section]) -> str:
    """Returns a whole page."""
    template = Template((files("mmdpo.report") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        summary=escape(summary),
        rules="\n".join(section.rules for section in sections if section.rules),
        contents=_contents(sections),
        sections="\n".join(_section_html(section) for section in sections),
    )


def _contents(sections: Sequence[Section]) -> str:
    links = (
        f'<li><a href="#{escape(section.id, quote=True)}">{escape(section.title)}</a></li>' for section in sections
    )
    return f"<ul>\n{chr(10).join(links)}\n</ul>"


def _section_html(section: Section) -> str:
    name = escape(section.id, quote=True)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(section.title)}</h2>\n{section.html}\n</section>'
    )


def identify(text: str) -> str:
    """Returns a text as part of an id or of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "x"


def paragraph(text: str, *, soft: bool = False) -> str:
    """Returns a paragraph of plain text, nothing for none."""
    opening = '<p class="soft">' if soft else "<p>"
    return f"{opening}{escape(text)}</p>" if text else ""


def bullets(lines: Sequence[str], kind: str = "notes") -> str:
    """Returns a list of plain lines, nothing for none."""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">\n{items}\n</ul>' if lines else ""


def definitions(meanings: Mapping[str, str], *, code: bool = False, soft: bool = False) -> str:
    """Returns names and what they mean, or have as their value."""
    opening, closing = ("<code>", "</code>") if code else ("", "")
    rows = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{opening}{escape(value)}{closing}</dd>" for name, value in meanings.items()
    )
    return f'<dl class="{"soft pairs" if soft else "pairs"}">\n{rows}\n</dl>'


def details(summary: str, html: str) -> str:
    """Returns something that is shown when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{html}\n</details>"


def table_html(grid: Table) -> str:
    """Returns a table that scrolls inside its box."""
    first, *others = grid.headers
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in others)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in grid.rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(grid.title, quote=True)}" tabindex="0">\n<table>\n'
        f'<thead><tr><th scope="col">{escape(first)}</th>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n'
        "</div>"
    )


def article(title: str, pictures: str, html: str) -> str:
    """Returns an example: its pictures, and what there is to be said beside them."""
    shown = f'<div class="pictures">{pictures}</div>\n' if pictures else ""
    return f'<article class="scene">\n<h3>{escape(title)}</h3>\n<div class="sides">\n{shown}{html}\n</div>\n</article>'


def answers_html(answers: Mapping[str, Answer], *, with_notes: bool = True) -> str:
    """Returns who said what, hallucinated words marked."""
    rows = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{answer_html(answer, with_note=with_notes)}</dd>"
        for name, answer in answers.items()
    )
    return f'<dl class="pairs">\n{rows}\n</dl>'


def answer_html(answer: Answer, *, with_note: bool = True) -> str:
    """Returns an answer with its marks, and in words what they show."""
    text = "".join(
        f"<mark>{escape(span.text)}</mark>" if span.hallucinated else escape(span.text) for span in answer.spans()
    )
    note = answer.note() if with_note else ""
    noted = f'{text}<br><span class="soft">{escape(note)}</span>' if note else text
    return noted + (details("The judge's reasons", paragraph(answer.reasons, soft=True)) if answer.reasons else "")


def picture_html(picture: Picture | None, caption: str, description: str) -> str:
    """Returns a picture; of one that is gone or cannot be shown it is said why."""
    try:
        if picture is None:
            raise FileNotFoundError
        if isinstance(picture, Unshown):
            raise UnusableFileError(picture.reason)
        uri, is_small = _encode_file(picture) if isinstance(picture, Path) else _encode(picture)
    except FileNotFoundError:
        return _gone(f"{caption}: the picture is missing")
    except UnusableFileError as error:
        return _gone(f"{caption} not shown: {error}")
    # Decoders raise nearly anything on broken bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception as error:
        return _gone(f"{caption} not shown: it is damaged or no picture ({type(error).__name__})")
    look = ' class="small"' if is_small else ""
    return (
        f'<figure><img{look} src="{uri}" alt="{escape(description, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _gone(text: str) -> str:
    return f'<figure class="gone"><figcaption>{escape(text)}</figcaption></figure>'


def open_picture(path: Path) -> Image.Image:
    """Opens a picture, not decoded yet; raises UnusableFileError for one of too many pixels, OSError for no picture."""
    check_regular(path, most=MOST_PICTURE_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UnusableFileError(f"it is too large: {error}") from error
    if opened.width * opened.height > MOST_PIXELS:
        opened.close()
        raise UnusableFileError(f"it has {opened.width} × {opened.height} pixels, more than {MOST_PIXELS:,}")
    return opened


@cache
def _encode_file(path: Path) -> tuple[str, bool]:
    with open_picture(path) as image:
        if image.format == "PNG" and max(image.size) <= SMALL and path.stat().st_size <= MOST_KEPT_BYTES:
            image.load()  # a damaged one fails here, not in the browser
            return _as_uri("png", path.read_bytes()), True
        return _encode(image)


def _encode(image: Image.Image) -> tuple[str, bool]:
    """Returns a data URI, of a small copy, and whether the picture was small before."""
    is_small = max(image.size) <= SMALL
    copy = image.convert("RGB")
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    if is_small:
        copy.save(buffer, "PNG")
        return _as_uri("png", buffer.getvalue()), True
    copy.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _as_uri("jpeg", buffer.getvalue()), False


def _as_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def curves_html(panels: Sequence[Panel], prefix: str) -> str:
    """Returns panels side by side; under a legend that they share if they have one, where lines are switched off."""
    drawn = "\n".join(f"<div>{panel_svg(panel, f'{prefix}-p{n}')}</div>" for n, panel in enumerate(panels, start=1))
    lines = _shared_lines(panels)
    entries = "\n".join(
        f'<li><label><input type="checkbox" id="{prefix}-pick{place}" checked>'
        f'<svg viewBox="0 0 28 8" aria-hidden="true"><line x1="1" x2="27" y1="4" y2="4" stroke="{colour}" '
        f'stroke-width="2.4" stroke-dasharray="{dashes}"/></svg>{escape(label)}</label></li>'
        for place, (label, colour, dashes) in lines.items()
    )
    legend = f'<ul class="legend" aria-label="Lines of all panels">\n{entries}\n</ul>\n' if lines else ""
    return f'<div id="{prefix}">\n{legend}<div class="curves">\n{drawn}\n</div>\n</div>'


def curves_rules(panels: Sequence[Panel], prefix: str) -> str:
    """Returns the CSS by which the shared legend hides a line, and lets one stand out while it is pointed at."""
    rules = []
    for place in _shared_lines(panels):
        picked, mine = f"#{prefix}-pick{place}", f'[id$="-series{place}"]'
        rules.append(f"#{prefix}:has({picked}:not(:checked)) {mine} {{ display: none; }}")
        rules.append(f'#{prefix}:has(label:hover {picked}) [id*="-series"]:not({mine}) {{ opacity: .12; }}')
    return "\n".join(rules)


def _shared_lines(panels: Sequence[Panel]) -> dict[int, tuple[str, str, str]]:
    """Returns label, colour and dashes of each line that the panels share, by its place in the legend."""
    found = {}
    for line in (line for panel in panels for line in panel.lines if line.place is not None):
        pattern = {"-": "none", "--": "6 3", "-.": "7 3 2 3", ":": "2 2"}.get(str(line.dashes), "2 5")
        found[line.place] = (line.label, line.colour, pattern)
    return dict(sorted(found.items()))  # type: ignore[arg-type]
