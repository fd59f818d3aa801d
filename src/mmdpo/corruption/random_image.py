"""Another example's picture, from the paper's ablation."""

import numpy as np
from PIL import Image

NEEDS_OTHER_IMAGE = True


def corrupt(image: Image.Image, generator: np.random.Generator, *, other: Image.Image) -> Image.Image:
    """Returns `other` unchanged, its own size included; who calls chooses it.

    Source: mDPO, arXiv 2406.11839, the ablation of corrupted images.
    """
    return other
