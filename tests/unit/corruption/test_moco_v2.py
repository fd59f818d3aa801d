import colorsys

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmdpo.corruption import load

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
OFF = {"jitter_probability": 0.0, "grey_probability": 0.0, "blur_probability": 0.0, "flip_probability": 0.0}
STILL = {"low": 1.0, "high": 1.0, **OFF}


def only(part, **options):
    """Returns MoCo v2 with one part at its default and everything else off."""
    kept = {key: value for key, value in STILL.items() if key != part}
    return load("moco_v2").with_options(**kept, **options)


def test_everything_off_changes_nothing():
    still = load("moco_v2").with_options(**STILL)
    assert still(PICTURE, np.random.default_rng(0)).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize(
    ("part", "probability"),
    [("jitter_probability", 0.8), ("grey_probability", 0.2), ("blur_probability", 0.5), ("flip_probability", 0.5)],
)
def test_each_part_happens_with_its_probability_and_is_what_its_name_says(part, probability):
    corrupt = only(part, sigma_low=40.0, sigma_high=40.0)
    outcomes = [corrupt(PICTURE, np.random.default_rng(seed)) for seed in range(600)]
    changed = [outcome for outcome in outcomes if outcome.tobytes() != PICTURE.tobytes()]
    assert len(changed) / 600 == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 600) ** 0.5)
    pixels = np.asarray(changed[0]).astype(int)
    if part == "flip_probability":
        assert changed[0].tobytes() == ImageOps.mirror(PICTURE).tobytes()
    if part == "grey_probability":
        assert not np.ptp(pixels, axis=-1).any()
    if part == "blur_probability":
        assert pixels.std() < 0.6 * np.asarray(PICTURE).std()


def jitter(colour, **strengths):
    """Returns what a uniform colour becomes under jitter of the given strengths alone, for 200 seeds."""
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    corrupt = only("jitter_probability", **{**none, **strengths})
    return [corrupt(Image.new("RGB", (4, 4), colour), np.random.default_rng(s)).getpixel((0, 0)) for s in range(200)]


def test_brightness_changes_by_up_to_two_fifths():
    values = [red for red, _, _ in jitter((100, 100, 100), brightness=0.4)]
    assert 60 <= min(values) < 65
    assert 135 < max(values) <= 140


def test_saturation_moves_colours_towards_or_away_from_grey():
    chromas = [red - blue for red, _, blue in jitter((150, 100, 100), saturation=0.4)]
    assert 29 <= min(chromas) < 33
    assert 67 < max(chromas) <= 71


def test_hue_turns_by_up_to_a_tenth_of_the_circle_either_way():
    turns = [(colorsys.rgb_to_hsv(*colour)[0] + 0.5) % 1 - 0.5 for colour in jitter((255, 0, 0), hue=0.1)]
    assert -0.105 <= min(turns) < -0.09
    assert 0.09 < max(turns) <= 0.105


def test_blur_scales_with_the_picture():
    """A sigma of 2 at 224 pixels is 8 at 896: relative to the picture the same blur."""
    edges = []
    for side in (224, 896):
        half = Image.new("RGB", (side, side))
        half.paste("white", (side // 2, 0, side, side))
        corrupt = load("moco_v2").with_options(**{**STILL, "blur_probability": 1.0}, sigma_low=2.0)
        row = np.asarray(corrupt(half, np.random.default_rng(0)))[side // 2, :, 0] / 255
        edges.append(((row > 0.05) & (row < 0.95)).sum() / side)
    assert edges[0] == pytest.approx(3.29 * 2 / 224, rel=0.15)  # A Gaussian edge rises from 5 % to 95 % in 3.29 sigma.
    assert edges[1] == pytest.approx(edges[0], rel=0.15)
