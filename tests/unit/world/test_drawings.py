"""Drawings that are made quickly are those that Pillow makes step by step."""

import numpy as np
from PIL import Image, ImageFilter

from mmdpo.world import drawings


def test_an_outline_is_what_the_filter_for_it_makes_again_and_again():
    opacity = Image.effect_noise((40, 31), 120)
    expected = opacity
    for _ in range(3):
        expected = expected.filter(ImageFilter.MaxFilter(3))
    assert np.array_equal(drawings._widen(np.asarray(opacity), 3), np.asarray(expected))
