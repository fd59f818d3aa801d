"""The crop of the processed tensor, for fidelity with the authors' released code (`crop_space: processed`)."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmdpo.corruption._geometry import draw_crop


def crop_processed(
    pixel_values: Float[Tensor, "3 H W"], generator: np.random.Generator, low: float, high: float
) -> Float[Tensor, "3 H W"]:
    """Crops what the image processor returned and resizes it back, bilinearly.

    Padding that the processor added can be all that the crop shows, which is why cropping the original is the default.
    Unlike the released code, the crop is drawn once and seeded: policy and reference are given the same tensor.
    Raises ValueError unless 0 < low <= high <= 1.
    """
    height, width = pixel_values.shape[-2:]
    box = draw_crop(width, height, generator, low=low, high=high)
    kept = pixel_values[:, box.top : box.top + box.height, box.left : box.left + box.width]
    # In float32, since the antialiasing kernel does not take every half precision on every device.
    resized = F.interpolate(kept[None].float(), size=(height, width), mode="bilinear", antialias=True)
    return resized[0].to(pixel_values.dtype)
