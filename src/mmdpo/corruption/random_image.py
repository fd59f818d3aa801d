"""Another example's picture, from the paper's ablation."""

import numpy as np
from PIL import Image

NEEDS_OTHER_IMAGE = True


def corrupt(image: Image.Image, generator: np.random.Generator, *, other: Image.Image) -> Image.Image:
    """Returns `other`, which the caller chooses, in its own size. Source: mDPO, arXiv 2406.11839, the ablation."""
    return other
