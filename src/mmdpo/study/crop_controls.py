"""Corrupted images that take the crop apart: what of it makes mDPO name wrong objects? For the study `why_crop`.

A crop that is blown up differs from the whole picture in three ways: most of the scene is missing, what remains is
larger than anything that whole pictures show, and it is blurred. Each function leaves one of them out, or alone.
"""

import math

import numpy as np
from PIL import Image

from mmdpo.corruption._geometry import draw_crop

LOW, HIGH = 0.01, 0.20
"""Shares of the area that `crop_0_20` keeps."""


def same_size(
    image: Image.Image, generator: np.random.Generator, *, low: float = LOW, high: float = HIGH
) -> Image.Image:
    """Keeps what a crop keeps, where it is and as large as it is; the rest has the mean colour of the picture."""
    left, top, width, height = draw_crop(image.width, image.height, generator, low=low, high=high)
    kept = Image.new("RGB", image.size, _mean_colour(image))
    box = (left, top, left + width, top + height)
    kept.paste(image.crop(box), box)
    return kept


def blurred(image: Image.Image, generator: np.random.Generator, *, low: float = LOW, high: float = HIGH) -> Image.Image:
    """Shows the whole picture with the blur of a crop: scaled down as much as a crop is scaled up, and back."""
    share = generator.uniform(low, high)
    small = tuple(max(1, round(side * math.sqrt(share))) for side in image.size)
    down = image.resize((small[0], small[1]), Image.Resampling.BOX)
    return down.resize(image.size, Image.Resampling.BICUBIC)


def pasted(image: Image.Image, generator: np.random.Generator, *, low: float = LOW, high: float = HIGH) -> Image.Image:
    """Pastes a crop, blown up to half of the picture's sides, at random over the picture.

    Things are as large as a crop makes them, and three quarters of the scene are still there.
    """
    left, top, width, height = draw_crop(image.width, image.height, generator, low=low, high=high)
    half = (image.width // 2, image.height // 2)
    piece = image.resize(half, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    shown = image.copy()
    x, y = (int(generator.integers(side - own + 1)) for side, own in zip(image.size, half, strict=True))
    shown.paste(piece, (x, y))
    return shown


def _mean_colour(image: Image.Image) -> tuple[int, int, int]:
    red, green, blue = (round(value) for value in np.asarray(image).mean(axis=(0, 1)))
    return red, green, blue
