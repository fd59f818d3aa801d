"""A picture without content."""

import numpy as np
from PIL import Image, ImageColor


def corrupt(image: Image.Image, generator: np.random.Generator, *, colour: str = "#7f7f7f") -> Image.Image:
    """Returns one uniform colour, mid grey by default: `#rrggbb`, `rgb(r, g, b)` or an HTML name, else ValueError."""
    return Image.new("RGB", image.size, ImageColor.getrgb(colour)[:3])
