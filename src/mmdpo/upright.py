"""A picture as training sees it and as pages show it."""

import numpy as np
from PIL import Image, ImageOps

_WHITE = (255, 255, 255, 255)
_CEILINGS = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a copy of a picture upright in 8-bit RGB.

    The EXIF orientation is applied. Transparency is laid over white. Greys and floats of more than 8 bits are scaled.
    """
    image = ImageOps.exif_transpose(image)  # which returns a copy, also of an upright picture
    if image.mode in _CEILINGS or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary; white is what a viewer of the file sees.
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit greys by their type's range, others by the least usual range that holds them, else by their own."""
    values = np.asarray(image).astype(np.float64)
    is_finite = np.isfinite(values)
    lowest, highest = (values[is_finite].min(), values[is_finite].max()) if is_finite.any() else (0.0, 0.0)
    values = np.clip(np.nan_to_num(values), lowest, highest)
    ceilings = _CEILINGS.get(image.mode, (65535.0,))
    ceiling = next((c for c in ceilings if lowest >= 0 and highest <= c), None)
    if ceiling is None:
        values, ceiling = values - lowest, (highest - lowest) or 1.0  # one value alone: nothing to scale by
    return Image.fromarray(np.rint(values * (255 / ceiling)).astype(np.uint8))
