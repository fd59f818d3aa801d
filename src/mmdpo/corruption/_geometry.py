"""Where a random crop lies, shared by every corruption that crops."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

TRIES = 10
LOG_ASPECT = math.log(4 / 3)
"""Aspects (width / height) are drawn log-uniformly from 3/4 to 4/3."""


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels inside a picture."""

    left: int
    top: int
    width: int
    height: int


def draw_crop(width: int, height: int, generator: np.random.Generator, *, low: float, high: float) -> Box:
    """Draws the part of a width × height picture that a random resized crop keeps.

    Its area is a share of the picture drawn uniformly from [low, high], up to rounding to whole pixels. A draw that
    does not fit (a panorama, a picture of a few pixels) is repeated; after ten, a centred box of the drawn area is
    taken whatever its aspect, since the share is what decides how much can still be seen.
    Raises ValueError unless 0 < low <= high <= 1.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f"a crop keeps a share between low and high, 0 < low <= high <= 1; got {low} and {high}")
    area = 0.0
    for _ in range(TRIES):
        area = generator.uniform(low, high) * width * height
        aspect = math.exp(generator.uniform(-LOG_ASPECT, LOG_ASPECT))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            return Box(int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h)
    return _centre(width, height, area)


def resized_crop(image: Image.Image, generator: np.random.Generator, *, low: float, high: float) -> Image.Image:
    """Keeps a random part of a picture, `draw_crop`'s, and enlarges it bicubically to the picture's own size."""
    box = draw_crop(image.width, image.height, generator, low=low, high=high)
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=edges)


def _centre(width: int, height: int, area: float) -> Box:
    """Returns the centred box of that area, a square unless the picture is too narrow for one."""
    short, long = sorted((width, height))
    across = min(max(round(math.sqrt(area)), 1), short)
    along = min(max(round(area / across), 1), long)
    w, h = (across, along) if width <= height else (along, across)
    return Box((width - w) // 2, (height - h) // 2, w, h)
