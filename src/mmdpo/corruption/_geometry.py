"""Crops of a picture or of its tensor, and a grid of cells over it, shared by corruptions."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image

LOG_ASPECT = math.log(4 / 3)
"""Aspects (width / height) are drawn log-uniformly from 3/4 to 4/3."""


class Box(NamedTuple):
    """A rectangle of whole pixels inside a picture."""

    left: int
    top: int
    width: int
    height: int


def draw_crop(width: int, height: int, generator: np.random.Generator, *, low: float, high: float) -> Box:
    """Draws the part of a width × height picture that a random resized crop keeps.

    Its area is a share drawn uniformly from [low, high], up to rounding to whole pixels. A draw that does not fit (a
    panorama, a picture of a few pixels) is repeated; after ten, a centred box of the drawn area is taken whatever its
    aspect, since the share decides how much can still be seen. Raises ValueError unless 0 < low <= high <= 1.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f"a crop keeps a share between low and high, 0 < low <= high <= 1; got {low} and {high}")
    area = 0.0
    for _ in range(10):
        area = generator.uniform(low, high) * width * height
        aspect = math.exp(generator.uniform(-LOG_ASPECT, LOG_ASPECT))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            return Box(int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h)
    # A square, unless the picture is too narrow for one.
    short, long = sorted((width, height))
    across = min(max(round(math.sqrt(area)), 1), short)
    along = min(max(round(area / across), 1), long)
    w, h = (across, along) if width <= height else (along, across)
    return Box((width - w) // 2, (height - h) // 2, w, h)


def resized_crop(image: Image.Image, generator: np.random.Generator, *, low: float, high: float) -> Image.Image:
    """Keeps a random part of a picture, `draw_crop`'s, and enlarges it bicubically to the picture's own size."""
    left, top, width, height = draw_crop(image.width, image.height, generator, low=low, high=high)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def crop_processed(
    pixel_values: Float[Any, "3 H W"], generator: np.random.Generator, low: float, high: float
) -> Float[Any, "3 H W"]:
    """Crops the tensor that the image processor returned and resizes it back, bilinearly (`crop_space: processed`).

    It is there for fidelity with the authors' released code. Padding that the processor added can be all that the crop
    shows, which is why cropping the original is the default. Unlike the released code, the crop is drawn once and
    seeded: policy and reference are given the same tensor. Raises ValueError unless 0 < low <= high <= 1.
    """
    from torch.nn.functional import interpolate  # pictures are corrupted without torch

    height, width = pixel_values.shape[-2:]
    box = draw_crop(width, height, generator, low=low, high=high)
    kept = pixel_values[:, box.top : box.top + box.height, box.left : box.left + box.width]
    # In float32, since the antialiasing kernel does not take every half precision on every device.
    resized = interpolate(kept[None].float(), size=(height, width), mode="bilinear", antialias=True)
    return resized[0].to(pixel_values.dtype)


def lay_grid(image: Image.Image, share: float) -> tuple[int, int, int]:
    """Returns the side in pixels, rows and columns of square cells over a picture; the last ones may be cut.

    The side is `share` of the picture's shorter one, one pixel at least: 48 and 4000 pixels are treated alike.
    """
    side = max(1, round(share * min(image.size)))
    return side, math.ceil(image.height / side), math.ceil(image.width / side)


def spread(
    cells: Shaped[np.ndarray, "rows columns ..."], side: int, image: Image.Image
) -> Shaped[np.ndarray, "height width ..."]:
    """Gives every pixel of a picture the value of its cell in a grid of that side."""
    return cells.repeat(side, axis=0).repeat(side, axis=1)[: image.height, : image.width]
