import beartype
import jaxtyping
import numpy as np
import pytest
import torch

from mmdpo.corruption._geometry import crop_processed, draw_crop

crop = jaxtyping.jaxtyped(typechecker=beartype.beartype)(crop_processed)


@pytest.mark.parametrize("seed", range(3))
def test_a_ramp_is_interpolated_at_the_centres_of_the_pixels(seed):
    """On a linear ramp bilinear interpolation is exact: pixel j shows left + (j + 1/2) · w / W − 1/2."""
    ramp = torch.stack(
        [torch.arange(48.0).expand(36, 48), torch.arange(36.0)[:, None].expand(36, 48), torch.ones(36, 48)]
    )
    result = crop(ramp, np.random.default_rng(seed), 0.2, 0.5)
    box = draw_crop(48, 36, np.random.default_rng(seed), low=0.2, high=0.5)
    x = (box.left + (torch.arange(48) + 0.5) * box.width / 48 - 0.5).clamp(box.left, box.left + box.width - 1)
    y = (box.top + (torch.arange(36) + 0.5) * box.height / 36 - 0.5).clamp(box.top, box.top + box.height - 1)
    expected = torch.stack([x.expand(36, 48), y[:, None].expand(36, 48), torch.ones(36, 48)])
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_half_precision_is_kept_and_the_crop_seeded():
    pixels = torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    once, again, another = (crop(pixels, np.random.default_rng(seed), 0.01, 0.2) for seed in (0, 0, 1))
    assert once.dtype == torch.bfloat16
    assert torch.equal(once, again)
    assert not torch.equal(once, another)


def test_a_batch_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError):
        crop(torch.zeros(2, 3, 8, 8), np.random.default_rng(0), 0.01, 0.2)
