"""Pictures that anybody may have made, as small copies to stand inside a page."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from mmdpo.files import Unshown, UnusableFileError, check_regular

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
class Thumbnail:
    """A picture as a page holds it."""

    uri: str = ""
    """The picture as a data URI; empty where it cannot be shown."""
    is_small: bool = False
    why: str = ""
    """Why it cannot be shown."""


def make_thumbnail(picture: Picture | None) -> Thumbnail:
    """Returns a small copy of a picture; of one that is gone or cannot be shown it is said why."""
    try:
        if isinstance(picture, Unshown):
            return Thumbnail(why=f" not shown: {picture.reason}")
        if picture is None:
            raise FileNotFoundError
        return _encode_file(picture) if isinstance(picture, Path) else _encode(picture)
    except FileNotFoundError:
        return Thumbnail(why=": the picture is missing")
    except UnusableFileError as error:
        return Thumbnail(why=f" not shown: {error}")
    # Decoders raise nearly anything on broken bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception as error:
        return Thumbnail(why=f" not shown: it is damaged or no picture ({type(error).__name__})")


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
def _encode_file(path: Path) -> Thumbnail:
    with open_picture(path) as image:
        if image.format == "PNG" and max(image.size) <= SMALL and path.stat().st_size <= MOST_KEPT_BYTES:
            image.load()  # a damaged one fails here, not in the browser
            return Thumbnail(_as_uri("png", path.read_bytes()), is_small=True)
        return _encode(image)


def _encode(image: Image.Image) -> Thumbnail:
    is_small = max(image.size) <= SMALL
    copy = image.convert("RGB")
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    if is_small:
        copy.save(buffer, "PNG")
    else:
        copy.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Thumbnail(_as_uri("png" if is_small else "jpeg", buffer.getvalue()), is_small)


def _as_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
