"""A milder crop, from the paper's ablation."""

import numpy as np
from PIL import Image

from mmdpo.corruption._geometry import resized_crop


def corrupt(
    image: Image.Image, generator: np.random.Generator, *, low: float = 0.20, high: float = 0.50
) -> Image.Image:
    """Keeps 20 % to 50 % of the area, aspect 3/4 to 4/3, resized back. Source: mDPO, arXiv 2406.11839, the ablation."""
    return resized_crop(image, generator, low=low, high=high)
