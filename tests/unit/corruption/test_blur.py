import numpy as np
import pytest
from PIL import Image

from mmdpo.corruption import load


@pytest.mark.parametrize("shorter", [100, 400])
def test_a_line_spreads_with_the_standard_deviation_asked_for(shorter):
    pixels = np.zeros((shorter, 2 * shorter, 3), np.uint8)
    pixels[:, shorter - 1 : shorter + 1] = 255
    blurred = load("blur").with_options(radius=0.02)(Image.fromarray(pixels), np.random.default_rng(0))
    weights = np.asarray(blurred)[shorter // 2, :, 0].astype(float)
    x = np.arange(2 * shorter)
    mean = np.average(x, weights=weights)
    assert np.average((x - mean) ** 2, weights=weights) ** 0.5 == pytest.approx(0.02 * shorter, rel=0.1)
