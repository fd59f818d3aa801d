import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmdpo.corruption import load
from mmdpo.corruption._geometry import draw_crop

sides = st.integers(1, 3000)
RANGES = [(0.01, 0.20), (0.20, 0.50), (0.2, 1.0)]


@given(width=sides, height=sides, seed=st.integers(0, 2**32), bounds=st.sampled_from(RANGES))
def test_the_box_lies_inside_and_its_area_within_the_bounds(width, height, seed, bounds):
    low, high = (share * width * height for share in bounds)
    box = draw_crop(width, height, np.random.default_rng(seed), low=bounds[0], high=bounds[1])
    assert 0 <= box.left <= width - box.width
    assert 0 <= box.top <= height - box.height
    assert min(box.width, box.height) >= 1
    if (box.width, box.height) != (1, 1):  # One pixel is the least that can be kept, whatever the bounds.
        assert (box.width - 0.5) * (box.height - 0.5) <= high
        assert (box.width + 0.5) * (box.height + 0.5) >= low


def test_shares_are_uniform_and_aspects_log_uniform():
    generator = np.random.default_rng(0)
    boxes = [draw_crop(4000, 4000, generator, low=0.01, high=0.20) for _ in range(4000)]
    shares = np.array([box.width * box.height for box in boxes]) / 4000**2
    assert np.quantile(shares, [0.25, 0.5, 0.75]) == pytest.approx([0.0575, 0.105, 0.1525], abs=0.005)
    aspects = np.log([box.width / box.height for box in boxes])
    quarter = math.log(4 / 3) / 2
    assert np.abs(aspects).max() <= math.log(4 / 3) + 0.01
    assert np.quantile(aspects, [0.25, 0.5, 0.75]) == pytest.approx([-quarter, 0, quarter], abs=0.015)
    room = np.array([(box.left / (4000 - box.width), box.top / (4000 - box.height)) for box in boxes])
    assert np.quantile(room, [0.05, 0.5, 0.95], axis=0) == pytest.approx(
        np.array([[0.05] * 2, [0.5] * 2, [0.95] * 2]), abs=0.03
    )


def test_a_panorama_is_cropped_at_its_centre_to_the_share_asked_for():
    box = draw_crop(1000, 10, np.random.default_rng(0), low=0.3, high=0.3)
    assert (box.left, box.top, box.width, box.height) == (350, 0, 300, 10)
    box = draw_crop(10, 1000, np.random.default_rng(0), low=0.3, high=0.3)
    assert (box.left, box.top, box.width, box.height) == (0, 350, 10, 300)


@pytest.mark.parametrize(("low", "high"), [(0, 0.2), (0.3, 0.2), (0.5, 1.1), (float("nan"), 0.2)])
def test_bounds_that_are_no_shares_are_refused(low, high):
    with pytest.raises(ValueError, match="0 < low <= high <= 1"):
        draw_crop(10, 10, np.random.default_rng(0), low=low, high=high)


@pytest.mark.parametrize(("name", "low", "high"), [("crop_0_20", 0.01, 0.20), ("crop_20_50", 0.20, 0.50)])
def test_the_picture_shows_only_the_share_it_keeps(name, low, high):
    """Every pixel carries its own coordinates, so the result says which part of the picture it shows."""
    coordinates = np.zeros((200, 250, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.arange(250), np.arange(200)[:, None]
    shares = []
    for seed in range(200):
        shown = np.asarray(load(name)(Image.fromarray(coordinates), np.random.default_rng(seed))).astype(int)
        width, height = (int(np.ptp(shown[..., axis])) + 1 for axis in (0, 1))
        shares.append(width * height / coordinates[..., 0].size)
    assert low * 0.85 <= min(shares) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(shares) <= high * 1.05
