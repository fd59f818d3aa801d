"""Some patches of the picture covered."""

import numpy as np
from PIL import Image, ImageColor

from mmdpo.corruption._geometry import lay_grid, spread


def corrupt(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    share: float = 0.3,
    patch: float = 1 / 24,
    colour: str = "#7f7f7f",
) -> Image.Image:
    """Covers `share` of a grid of square patches, drawn without replacement, with one colour.

    `patch` is the side of a patch as a share of the picture's shorter side; 1/24 is 14 pixels at 336, the patch of
    CLIP's large vision tower. Patches at the right and lower edge may be cut.
    Raises ValueError for shares outside [0, 1] and patches outside (0, 1].
    Source: OPA-DPO, arXiv 2501.09695, which masks 30 %.
    """
    if not 0 <= share <= 1 or not 0 < patch <= 1:
        raise ValueError(f"share must lie in [0, 1] and patch in (0, 1]; got share {share}, patch {patch}")
    side, rows, columns = lay_grid(image, patch)
    covered = np.zeros(rows * columns, dtype=bool)
    covered[generator.permutation(covered.size)[: round(share * covered.size)]] = True
    pixels = np.array(image)
    pixels[spread(covered.reshape(rows, columns), side, image)] = ImageColor.getrgb(colour)[:3]
    return Image.fromarray(pixels)
