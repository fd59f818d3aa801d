import numpy as np
import pytest
from PIL import Image

from mmdpo.corruption import load


@pytest.mark.parametrize("size", [(48, 48), (640, 427), (4000, 1000)])
def test_the_share_asked_for_is_covered_in_whole_patches(size):
    mask = load("patch_mask").with_options(colour="black")
    shown = np.asarray(mask(Image.new("RGB", size, "white"), np.random.default_rng(0)))
    covered = (shown == 0).all(axis=-1)
    assert np.array_equal(covered, ~(shown == 255).all(axis=-1))
    assert covered.mean() == pytest.approx(0.3, abs=0.02)
    side = round(min(size) / 24)
    for top, left in [(0, 0), (side, 0), (0, side), (5 * side, 7 * side)]:
        assert np.ptp(covered[top : top + side, left : left + side].astype(int)) == 0


def test_a_quarter_of_sixteen_patches_is_four():
    mask = load("patch_mask").with_options(share=0.25, patch=0.25, colour="#ff0000")
    shown = np.asarray(mask(Image.new("RGB", (48, 48)), np.random.default_rng(3)))
    assert (shown[::12, ::12, 0] == 255).sum() == 4
    assert (shown[..., 0] == 255).sum() == 4 * 12 * 12
    assert not shown[..., 1:].any()
