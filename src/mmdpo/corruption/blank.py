"""A picture without content."""

import numpy as np
from PIL import Image, ImageColor


def corrupt(image: Image.Image, generator: np.random.Generator, *, colour: str = "#7f7f7f") -> Image.Image:
    """Returns one uniform colour, mid grey (127) by default.

    `colour` is `#rrggbb`, `rgb(r, g, b)` or an HTML name; another value raises ValueError.
    """
    return Image.new("RGB", image.size, ImageColor.getrgb(colour)[:3])
