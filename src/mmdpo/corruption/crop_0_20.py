"""The paper's best corruption, and the default: keep a small part of the picture."""

import numpy as np
from PIL import Image

from mmdpo.corruption._geometry import resized_crop


def corrupt(
    image: Image.Image, generator: np.random.Generator, *, low: float = 0.01, high: float = 0.20
) -> Image.Image:
    """Keeps 1 % to 20 % of the area, aspect 3/4 to 4/3, and resizes it back to the picture's size.

    Source: mDPO, arXiv 2406.11839; the lower bound is that of its released code.
    """
    return resized_crop(image, generator, low=low, high=high)
