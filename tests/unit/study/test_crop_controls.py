"""What each control of the crop keeps of a picture, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from mmdpo.corruption import load
from mmdpo.corruption._geometry import draw_crop
from mmdpo.study import crop_controls
from mmdpo.study.study_file import read_study

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def apply(name, seed=0, **options):
    function = load(f"mmdpo.study.crop_controls:{name}").with_options(**options)
    return np.asarray(function(PICTURE, np.random.default_rng(seed)), dtype=int)


@pytest.mark.parametrize("seed", range(5))
def test_same_size_keeps_a_part_as_it_is_and_nothing_else(seed):
    shown, whole = apply("same_size", seed), np.asarray(PICTURE, dtype=int)
    kept = (shown == whole).all(axis=-1)
    assert 0.005 < kept.mean() < 0.22, "1 to 20 % of the area"
    assert len(np.unique(shown[~kept], axis=0)) == 1, "the rest has one colour"
    assert np.abs(shown[~kept][0] - whole.mean(axis=(0, 1))).max() <= 0.5


def test_blurred_shows_all_of_the_picture_with_less_detail_the_smaller_the_share():
    whole = np.asarray(PICTURE, dtype=int)
    spreads = [apply("blurred", low=share, high=share).std() for share in (0.01, 0.1, 1.0)]
    assert spreads[0] < spreads[1] < spreads[2]
    assert np.array_equal(apply("blurred", low=1.0, high=1.0), whole)
    assert apply("blurred").mean() == pytest.approx(whole.mean(), abs=6)


def test_pasted_leaves_three_quarters_of_the_picture():
    kept = (apply("pasted") == np.asarray(PICTURE, dtype=int)).all(axis=-1)
    assert 0.74 < kept.mean() < 0.77


def test_pasted_shows_the_crop_that_its_generator_draws_blown_up():
    generator = np.random.default_rng(0)
    left, top, width, height = draw_crop(*PICTURE.size, generator, low=0.01, high=0.20)
    x, y = (int(generator.integers(side - side // 2 + 1)) for side in PICTURE.size)
    box = (left, top, left + width, top + height)
    expected = PICTURE.resize((32, 24), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(apply("pasted")[y : y + 24, x : x + 32], np.asarray(expected, dtype=int))


def test_the_study_reads_and_its_blurred_original_is_ranked_above_the_crop():
    study = read_study("why_crop")
    variant = next(variant for variant in study.variants if variant.name == "blurred_original")
    cells = variant.recipe("unused", 0).options().objective
    assert "mmdpo.study.crop_controls:blurred" in str(cells)
    assert callable(crop_controls.blurred)
