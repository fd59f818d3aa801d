"""From whatever a dataset calls an image to an upright 8-bit RGB picture, or one error that says how to mend it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image, UnidentifiedImageError
from xxhash import xxh3_128

from mmdpo.files import irregular_kind, printable
from mmdpo.records import ImageSource, RowError
from mmdpo.upright import to_rgb

MAX_PIXELS = 100_000_000
"""Pictures beyond this many pixels are refused before they are decoded."""

_MAX_BYTES = 1 << 30
"""Files beyond this are refused unread."""
_SHOWN = 200
"""Characters of a path, an address or a decoder's message that a message quotes."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkq|TU0A|AAAA)[A-Za-z0-9+/_\s-]{36,}={0,2}\s*")
"""What encoded JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF begin with, and no suffix, which a path would have."""
_EXIF_ORIENTATION = 0x0112


def image_sources(value: Any, image_root: Path | None) -> tuple[ImageSource, ...]:
    """Reads the value of an image column: none, one image, or a list of them.

    An image is a path (relative ones are joined to `image_root`), a `file:` or `data:` URI, base64, encoded bytes, a
    PIL image, or a mapping that has one of these as `bytes`, `path` or `url`. What merged tables put where there is no
    image (None, NaN, "", a mapping of such) is none, in a list too. Nothing is opened.

    Raises RowError where an entry is an address on the web, has no bytes, or is no image at all.
    """
    entries = value if isinstance(value, list | tuple) else (value,)
    sources = (_image_source(entry, image_root) for entry in entries)
    return tuple(source for source in sources if source is not None)


def open_image(source: ImageSource | Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image completely and returns it upright in 8-bit RGB.

    `source` is a path, encoded bytes, a PIL image, or the mapping of `bytes` and `path` that `datasets` gives for an
    undecoded image. The EXIF orientation is applied. Transparency is laid over white. Greys and floats of more than
    8 bits are scaled, not clipped. Of an animation the first frame is taken. A PIL image that comes in is not changed.

    Raises RowError where the file is missing, unreadable, truncated, without pixels, or has more than `max_pixels`
    pixels (read from the header; PIL's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, applies besides).
    """
    with _opened(source, max_pixels) as image:
        return to_rgb(image)


def image_size(source: ImageSource | Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns (width, height) in pixels, upright, from the header alone.

    A truncated file passes: only `open_image` decodes.

    Raises RowError as `open_image`, truncation excepted.
    """
    with _opened(source, max_pixels) as image:
        width, height = image.size
        # Values 5 to 8 lay the picture on its side.
        return (height, width) if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5 else (width, height)


def digest_image(source: ImageSource) -> str:
    """Returns the digest of an image's content, 32 hexadecimal digits: of its encoded bytes, or of its pixels.

    Raises RowError where a file cannot be read, or is none.
    """
    if isinstance(source, bytes):
        return xxh3_128(source).hexdigest()
    if isinstance(source, Image.Image):
        pixels = xxh3_128(source.tobytes())  # decodes it first, where that has not happened
        # Palette, transparency and orientation decide how it looks, too.
        look = [source.mode, source.size, source.getpalette(), source.info.get("transparency")]
        look.append(source.getexif().get(_EXIF_ORIENTATION))
        pixels.update(json.dumps(look, sort_keys=True, default=str).encode())
        return pixels.hexdigest()
    with _explained(_name(source)):
        _check_file(source)
        return xxh3_128(Path(source).read_bytes()).hexdigest()


def _image_source(value: Any, image_root: Path | None) -> ImageSource | None:
    """Returns the source that one entry names, None where it says that there is no image."""
    if isinstance(value, Mapping):
        key = next((key for key in ("bytes", "path", "url") if not _is_nothing(value.get(key))), "path")
        value = value.get(key)
        if key == "bytes" and isinstance(value, str) and not _SCHEME.match(value):
            return _decode_base64(value.encode(errors="replace"))
    if _is_nothing(value):
        return None
    if isinstance(value, str):
        return _read_text(value, image_root)
    if isinstance(value, Path):
        return value if image_root is None else image_root / value
    if isinstance(value, bytes | Image.Image) and value != b"":
        return value
    found = "empty" if isinstance(value, bytes) else f"of type {type(value).__name__}"
    raise RowError(f"an image is {found}: give a path, encoded bytes or a PIL image")


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def _read_text(text: str, image_root: Path | None) -> ImageSource:
    scheme = _SCHEME.match(text)
    kind = scheme[1].lower() if scheme else ""
    if kind == "data":
        header, comma, content = text.partition(",")
        if not comma:
            raise RowError(f"an image is {_shown(text)}, a data: URI without a comma: write data:image/png;base64,…")
        data = unquote_to_bytes(content.encode(errors="replace"))
        return _decode_base64(data) if header.lower().endswith(";base64") else data
    if kind == "file":
        place = text[scheme.end() :] if scheme else ""
        if place.startswith("//"):
            host, _, place = place[2:].partition("/")
            if host not in ("", "localhost"):
                raise RowError(f"image {_shown(text)} lies on another machine: give the path of a file on this one")
            place = f"/{place}"
        text = unquote(place)
        return Path(text) if image_root is None else image_root / text
    if scheme and text[scheme.end() :].startswith("//"):
        raise RowError(f"image {_shown(text)} is a web address: download it and give the path of the file")
    if _BASE64.fullmatch(text):
        return _decode_base64(text.encode())
    return Path(text) if image_root is None else image_root / text


def _decode_base64(content: bytes) -> bytes:
    try:
        decoded = base64.b64decode(
            b"".join(content.split()), altchars=b"-_" if b"-" in content or b"_" in content else None, validate=True
        )
    except binascii.Error as error:
        raise RowError(f"an image of {len(content)} characters is no base64 ({error}): encode it again") from error
    if not decoded:
        raise RowError("an image is empty: give a path, encoded bytes or a PIL image")
    return decoded


@contextmanager
def _opened(source: ImageSource | Mapping[str, Any], max_pixels: int) -> Iterator[Image.Image]:
    """Opens the header, checks the size, and turns whatever goes wrong until the end of the block into a RowError."""
    if isinstance(source, Mapping):
        found = _image_source(source, None)
        if found is None:
            raise RowError("an image is empty: give a path, encoded bytes or a PIL image")
        source = found
    name = _name(source)
    with _explained(name):
        if isinstance(source, Image.Image):
            _check_size(source.size, name, max_pixels)
            yield source
            return
        if not isinstance(source, bytes):
            _check_file(source)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.format == "EPS":
                raise RowError(f"{name} is EPS, which Pillow hands to another program: save it as PNG or JPEG")
            _check_size(image.size, name, max_pixels)
            yield image


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError(f"{name} is too large. {error} {_SHRINK}") from error
    except FileNotFoundError as error:
        raise RowError(f"{name} does not exist: check the path, or give the images' folder (image_root)") from error
    except UnidentifiedImageError as error:
        raise RowError(f"{name} cannot be read: it is damaged or no image; fetch it again") from error
    # Decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, KeyError, MemoryError.
    except Exception as error:
        reason = getattr(error, "strerror", None) or _shown(f"{error}" or type(error).__name__)
        raise RowError(f"{name} cannot be read ({reason}): it is damaged or no image; fetch it again") from error


def _check_file(path: str | Path) -> None:
    kind = irregular_kind(path)
    if kind is not None:
        raise RowError(f"{_name(path)} cannot be read: it is {kind}; give the path of a file")
    size = Path(path).stat().st_size
    if size > _MAX_BYTES:
        raise RowError(f"{_name(path)} is too large: {size} bytes, and an image may have {_MAX_BYTES}")


_SHRINK = "Make it smaller, or raise max_image_pixels if you trust it"


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise RowError(f"{name} is {width} × {height} pixels: there is nothing to see; replace it or remove the row")
    if width * height > max_pixels:
        raise RowError(
            f"{name} is too large. {width} × {height} = {width * height} pixels, limit {max_pixels}. {_SHRINK}"
        )


def _name(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        return f"image file {_shown(str(source))}"
    if isinstance(source, bytes):
        return f"the embedded image ({len(source)} bytes)"
    file = getattr(source, "filename", "")
    return f"the image opened from {_shown(str(file))}" if file else "the image in memory"


def _shown(text: str) -> str:
    """Returns the text as messages quote it: never a whole picture, and nothing that would steer a terminal."""
    beginning = printable(text[:_SHOWN])
    return beginning if len(text) <= _SHOWN else f"{beginning}… ({len(text)} characters)"
