import numpy as np
import pytest
from PIL import Image

from mmdpo.corruption import load
from mmdpo.corruption.noise import KEPT

GREY = Image.new("RGB", (300, 200), (127, 127, 127))


def test_the_schedule_has_the_values_worked_by_hand():
    """The betas are logistic: their sums have the closed form of its integral, ln(1 + e^u).

    β_0 = 0.00247262 · 4.99e-3 + 1e-5 = 2.23384e-5. All betas: Σβ = 1000 · 5.01e-3 / 2 = 2.505 and
    Σβ² ≈ (1000/12) · 4.99e-3² · 5.005 + 2 · 1e-5 · 2.505 = 0.01044, so −ln ᾱ_999 = Σβ + Σβ²/2 = 2.5102.
    """
    kept = KEPT
    betas = 1 - kept / np.concatenate([[1.0], kept[:-1]])
    assert kept[0] == pytest.approx(1 - 2.23384e-5, abs=1e-9)
    assert betas[-1] == pytest.approx(5.01e-3 - 2.23384e-5, abs=1e-8)
    assert -np.log(kept[-1]) == pytest.approx(2.5102, abs=2e-4)
    assert np.all(np.diff(betas) > 0)


@pytest.mark.parametrize("step", [50, 300])
def test_noise_on_grey_has_the_variance_of_its_step(step):
    noisy = np.asarray(load("noise").with_options(step=step)(GREY, np.random.default_rng(0))) / 127.5 - 1
    assert noisy.mean() == pytest.approx(-1 / 255, abs=0.003)
    assert noisy.std() == pytest.approx((1 - KEPT[step]) ** 0.5, rel=0.02)


def test_the_last_step_leaves_a_white_picture_mostly_noise():
    """At step 999 √ᾱ is 0.285: white is dimmed to a mean of 0.285 before noise of 0.958 is cut to [−1, 1]."""
    white = Image.new("RGB", (300, 200), "white")
    noisy = np.asarray(load("noise").with_options(step=999)(white, np.random.default_rng(0))) / 127.5 - 1
    assert np.median(noisy) == pytest.approx(KEPT[999] ** 0.5, abs=0.02)
    assert np.median(noisy) == pytest.approx(0.285, abs=0.02)


def test_a_large_photograph_is_as_noisy_as_a_small_one_after_the_processor_has_shrunk_it():
    large = Image.new("RGB", (1680, 1680), (127, 127, 127))
    spread = {}
    for grain in (1 / 336, 0.0):
        noisy = load("noise").with_options(step=300, grain=grain)(large, np.random.default_rng(0))
        spread[grain] = np.asarray(noisy.resize((336, 336), Image.Resampling.BOX)).std() / 127.5
    assert spread[1 / 336] == pytest.approx((1 - KEPT[300]) ** 0.5, rel=0.02)
    assert spread[0.0] < spread[1 / 336] / 4
