"""MoCo v2's augmentation, from the paper's ablation."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mmdpo.corruption._geometry import resized_crop


def corrupt(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    low: float = 0.2,
    high: float = 1.0,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jitter_probability: float = 0.8,
    grey_probability: float = 0.2,
    blur_probability: float = 0.5,
    sigma_low: float = 0.1,
    sigma_high: float = 2.0,
    flip_probability: float = 0.5,
) -> Image.Image:
    """Applies a resized crop, colour jitter, greyscale, Gaussian blur and a mirror image, each with its probability.

    Brightness, contrast and saturation are multiplied by a factor from 1 ± strength; hue turns by up to `hue` of a full
    circle; sigmas are pixels at a shorter side of 224.
    Raises ValueError for strengths, probabilities, sigmas or shares out of range.
    Source: Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297.
    """
    probabilities = (jitter_probability, grey_probability, blur_probability, flip_probability)
    fractions = (brightness, contrast, saturation, *probabilities)
    if not all(0 <= fraction <= 1 for fraction in fractions) or not 0 <= hue <= 0.5 or not 0 <= sigma_low <= sigma_high:
        raise ValueError(
            "moco_v2 wants strengths and probabilities in [0, 1], hue in [0, 0.5] and 0 <= sigma_low <= sigma_high"
        )
    picture = resized_crop(image, generator, low=low, high=high)
    if generator.random() < jitter_probability:  # in a random order
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for change in generator.permutation(len(enhancers) + 1):
            if change == len(enhancers):
                picture = _turn_hue(picture, generator.uniform(-hue, hue))
            else:
                strength = (brightness, contrast, saturation)[change]
                picture = enhancers[change](picture).enhance(generator.uniform(1 - strength, 1 + strength))
    if generator.random() < grey_probability:
        picture = picture.convert("L").convert("RGB")
    if generator.random() < blur_probability:
        sigma = generator.uniform(sigma_low, sigma_high) * min(image.size) / 224
        picture = picture.filter(ImageFilter.GaussianBlur(sigma))
    if generator.random() < flip_probability:
        picture = ImageOps.mirror(picture)
    return picture


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    """Turns the hue by a share of the full circle, which PIL's HSV divides into 256 steps."""
    shift = round(turn * 256)
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(step + shift) % 256 for step in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
