"""A grid of square cells over a picture, sized by the picture so that 48 and 4000 pixels are treated alike."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from PIL import Image


@dataclass(frozen=True)
class Grid:
    """Square cells that cover a picture of height × width pixels; those at the right and lower edge may be cut."""

    height: int
    width: int
    side: int

    @property
    def rows(self) -> int:
        """Number of cells from top to bottom."""
        return math.ceil(self.height / self.side)

    @property
    def columns(self) -> int:
        """Number of cells from left to right."""
        return math.ceil(self.width / self.side)

    def spread(self, cells: Shaped[np.ndarray, "rows columns ..."]) -> Shaped[np.ndarray, "height width ..."]:
        """Gives every pixel the value of its cell."""
        pixels = cells.repeat(self.side, axis=0).repeat(self.side, axis=1)
        return pixels[: self.height, : self.width]


def lay_grid(image: Image.Image, share: float) -> Grid:
    """Returns the grid whose cells have `share` of the picture's shorter side as their side, one pixel at least."""
    return Grid(image.height, image.width, max(1, round(share * min(image.size))))
