"""Gaussian noise as a diffusion model adds it."""

import numpy as np
from jaxtyping import Float64
from PIL import Image

from mmdpo.corruption._geometry import lay_grid, spread

STEPS = 1000
KEPT: Float64[np.ndarray, "1000"] = np.cumprod(1 - ((5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS))) + 1e-5))
"""ᾱ_t = Π_{s ≤ t} (1 − β_s), the share of the signal's variance left at each step.

β_t = σ(u_t) · (5e-3 − 1e-5) + 1e-5 with u_t evenly spaced from −6 to 6. Source: Leng et al., "Mitigating Object
Hallucinations … through Visual Contrastive Decoding", arXiv 2311.16922.
"""


def corrupt(
    image: Image.Image, generator: np.random.Generator, *, step: int = 500, grain: float = 1 / 336
) -> Image.Image:
    """Returns x_t = √ᾱ_t x + √(1 − ᾱ_t) ε on pixels scaled to [−1, 1], cut back to that range.

    ε is constant on squares whose side is `grain` times the shorter side: independent noise on every pixel of a
    photograph of 4000 would average out when the image processor shrinks it to 336. Pictures of up to 500 pixels get
    noise on every pixel; a grain of 0 does so for all.
    Raises ValueError for a step outside 0 … 999 or a grain outside [0, 1].
    """
    if not 0 <= step < STEPS or not 0 <= grain <= 1:
        raise ValueError(f"step must be from 0 to {STEPS - 1} and grain in [0, 1]; got step {step}, grain {grain}")
    kept = float(KEPT[step])
    side, rows, columns = lay_grid(image, grain)
    epsilon = generator.standard_normal((rows, columns, 3), dtype=np.float32)
    noisy = np.asarray(image, dtype=np.float32) / 127.5 - 1
    noisy *= kept**0.5  # In place: a photograph of 12 megapixels takes 144 MB in float32.
    noisy += spread((1 - kept) ** 0.5 * epsilon, side, image)
    np.clip(noisy, -1, 1, out=noisy)
    return Image.fromarray(np.rint((noisy + 1) * 127.5).astype(np.uint8))
