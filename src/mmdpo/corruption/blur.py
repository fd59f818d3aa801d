"""A picture out of focus: layout and colours stay, detail goes."""

import numpy as np
from PIL import Image, ImageFilter


def corrupt(image: Image.Image, generator: np.random.Generator, *, radius: float = 0.03) -> Image.Image:
    """Blurs with a Gaussian whose standard deviation is `radius` (0 to 1) times the shorter side: 10 pixels at 336."""
    if not 0 <= radius <= 1:
        raise ValueError(f"radius is a share of the shorter side, from 0 to 1; got {radius}")
    return image.filter(ImageFilter.GaussianBlur(radius * min(image.size)))
