"""Gaussian noise on a region of the picture: what the answer speaks of, marked by a mask or by boxes."""

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mmdpo.corruption import noise

NEEDS_REGION = True


def corrupt(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    step: int = 500,
    grain: float = 1 / 336,
    region: Bool[np.ndarray, "h w"],
) -> Image.Image:
    """Returns the picture with the noise of `noise`, step and grain as there, where `region` is true.

    An empty region changes nothing. Sources: MMedPO (arXiv 2412.06141), whose regions are lesions; MFPO (2410.15334).
    """
    noisy = noise.corrupt(image, generator, step=step, grain=grain)
    return Image.composite(noisy, image, Image.fromarray(region))
