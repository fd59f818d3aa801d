"""From whatever a dataset calls an image to an upright 8-bit RGB picture, or one error that says how to mend it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmdpo.examples import ImageSource, RowError

MAX_PIXELS = 100_000_000
"""Pictures beyond this many pixels are refused before they are decoded."""

_WHITE = (255, 255, 255, 255)
_CEILINGS = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}
_EXIF_ORIENTATION = 0x0112


def image_sources(value: Any, image_root: Path | None) -> tuple[ImageSource, ...]:
    """Reads the value of an image column: none, one image, or a list of them.

    Relative paths are joined to `image_root`; a `{"bytes": ..., "path": ...}` mapping gives its bytes, else its path.
    Nothing is opened.

    Raises:
        RowError: an entry is empty, a web address, or no image at all.
    """
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(_image_source(entry, image_root) for entry in value)
    return (_image_source(value, image_root),)


def open_image(source: ImageSource | Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image completely and returns it upright in 8-bit RGB.

    `source` is a path, encoded bytes, a PIL image, or the mapping of `bytes` and `path` that `datasets` gives for an
    undecoded image. The EXIF orientation is applied. Transparency is laid over white. Greys and floats of more than
    8 bits are scaled, not clipped. Of an animation the first frame is taken. A PIL image that comes in is not changed.

    Raises:
        RowError: the file is missing, unreadable, truncated, without pixels, or has more than `max_pixels` pixels
            (read from the header; PIL's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, applies besides).
    """
    with _opened(source, max_pixels) as image:
        return _to_rgb(ImageOps.exif_transpose(image))


def image_size(source: ImageSource | Mapping[str, Any], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns (width, height) in pixels, upright, from the header alone.

    A truncated file passes: only `open_image` decodes.

    Raises:
        RowError: as `open_image`, truncation excepted.
    """
    with _opened(source, max_pixels) as image:
        width, height = image.size
        # Values 5 to 8 lay the picture on its side.
        return (height, width) if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5 else (width, height)


def _image_source(value: Any, image_root: Path | None) -> ImageSource:
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise RowError(f"image {value} is a web address: download it and give the path of the file")
    if isinstance(value, str | Path) and str(value):
        return image_root / value if image_root is not None else Path(value)
    if isinstance(value, bytes | Image.Image) and value != b"":
        return value
    found = "empty" if value is None or isinstance(value, str | bytes | Path) else f"of type {type(value).__name__}"
    raise RowError(f"an image is {found}: give a path, encoded bytes or a PIL image")


@contextmanager
def _opened(source: ImageSource | Mapping[str, Any], max_pixels: int) -> Iterator[Image.Image]:
    """Opens the header, checks the size, and turns whatever goes wrong until the end of the block into a RowError."""
    if isinstance(source, Mapping):
        source = _image_source(source, None)
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            _check_size(source.size, name, max_pixels)
            yield source
            return
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_size(image.size, name, max_pixels)
            yield image
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError(f"{name} is too large. {error} {_SHRINK}") from error
    except FileNotFoundError as error:
        raise RowError(f"{name} does not exist: check the path, or give the images' folder (image_root)") from error
    except UnidentifiedImageError as error:
        raise RowError(f"{name} cannot be read: it is damaged or no image; fetch it again") from error
    # Decoders raise nearly anything on broken bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        raise RowError(f"{name} cannot be read ({error}): it is damaged or no image; fetch it again") from error


_SHRINK = "Make it smaller, or raise max_pixels if you trust it"


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
        return f"image file {source}"
    if isinstance(source, bytes):
        return f"the embedded image ({len(source)} bytes)"
    file = getattr(source, "filename", "")
    return f"the image opened from {file}" if file else "the image in memory"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _CEILINGS or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary; white is what a viewer of the file sees.
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit greys by their type's range, others by the least usual range that holds them, else by their own."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    lowest, highest = float(values.min()), float(values.max())
    ceilings = _CEILINGS.get(image.mode, (65535.0,))
    ceiling = next((c for c in ceilings if lowest >= 0 and highest <= c), None)
    if ceiling is None:
        values, ceiling = values - lowest, highest - lowest
    return Image.fromarray(np.rint(values * (255 / ceiling)).astype(np.uint8))
