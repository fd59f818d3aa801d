"""Attention in merged parts against a softmax over all keys, and what the kernel is taken for."""

import pytest
import torch

from mmdpo.models.seams import attend_with_lse, attend_with_lse_backward
from mmdpo.scoring.merged_attention import Part, attend_merged, is_mergeable, list_parts

LENGTHS = (5, 3, 4, 2)
PREFIXES = ((), ((0, 4),), ((0, 4),), ((0, 2), (2, 3)))
"""A trunk, two branches after its fourth token, and one that goes on after the third token of the second of these."""
PADDING = 2


def draw(heads=2, key_heads=2, dtype=torch.float64, scale=1.0):
    made = torch.Generator().manual_seed(0)
    shapes = [(1, count, sum(LENGTHS) + PADDING, 4) for count in (heads, key_heads, key_heads)]
    return [(scale * torch.randn(shape, generator=made, dtype=torch.float64)).to(dtype) for shape in shapes]


def visible():
    starts = [sum(LENGTHS[:place]) for place in range(len(LENGTHS))]
    mask = torch.zeros(sum(LENGTHS) + PADDING, sum(LENGTHS) + PADDING, dtype=torch.bool)
    for start, length, prefixes in zip(starts, LENGTHS, PREFIXES, strict=True):
        mask[start : start + length, start : start + length] = torch.ones(length, length).tril()
        for piece, count in prefixes:
            mask[start : start + length, starts[piece] : starts[piece] + count] = True
    return mask


def attend_densely(query, key, value, scale=None):
    """In float64, padding left out."""
    query, key, value = (tensor.double() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    real = sum(LENGTHS)
    weights = scores.masked_fill(~visible(), -torch.inf)[:, :, :real].softmax(-1)
    return (weights @ value).transpose(1, 2)


PARTS = list_parts(LENGTHS, PREFIXES)


def test_parts_by_hand():
    own = [Part(slice(0, 5), slice(0, 5), True), Part(slice(5, 8), slice(5, 8), True)]
    own += [Part(slice(8, 12), slice(8, 12), True), Part(slice(12, 14), slice(12, 14), True)]
    together = Part(slice(5, 12), slice(0, 4), False)
    assert [
        *own, together, Part(slice(12, 14), slice(0, 2), False), Part(slice(12, 14), slice(8, 11), False)
    ] == PARTS  # fmt: skip


def test_pieces_apart_that_see_the_same_are_parts_of_their_own_and_nothing_is_no_part():
    parts = list_parts((2, 1, 1, 1), ((), ((0, 1),), (), ((0, 1), (1, 0))))
    assert parts[4:] == [Part(slice(2, 3), slice(0, 1), False), Part(slice(4, 5), slice(0, 1), False)]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_output_and_gradients_are_those_of_one_softmax(key_heads, scale):
    tensors = [tensor.requires_grad_() for tensor in draw(4, key_heads)]
    found, expected = attend_merged(*tensors, PARTS, scale), attend_densely(*tensors, scale)
    real = sum(LENGTHS)
    torch.testing.assert_close(found[:, :real], expected, rtol=1e-12, atol=1e-12)
    assert not found[:, real:].any()
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found[:, :real] * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-12)
        assert not gradient[:, :, real:].any()


def test_shares_far_apart_neither_vanish_nor_overflow():
    """One part's scores are hundreds above the other's, whose exponentials alone are no numbers of float32."""
    query, key, value = draw(dtype=torch.float32)
    query, key = query.abs(), 0.01 * key.abs()
    key[:, :, :4] += 1000
    found = attend_merged(query, key, value, PARTS, None)
    assert found.isfinite().all()
    torch.testing.assert_close(
        found[:, : sum(LENGTHS)].double(), attend_densely(query, key, value), rtol=1e-4, atol=1e-4
    )


def test_merging_rounds_no_worse_than_16_bits_do():
    exact = draw()
    rounded = [tensor.bfloat16() for tensor in exact]
    found = attend_merged(*rounded, PARTS, None)
    assert found.dtype == torch.bfloat16
    expected = attend_densely(*rounded)
    assert (found[:, : sum(LENGTHS)].double() - expected).abs().max() < 2**-8 * expected.abs().max() * 2


def test_what_the_kernel_is_not_made_for_is_left_to_sdpa():
    query, key, value = draw(dtype=torch.float32)
    assert is_mergeable(query, key, value, {})
    assert is_mergeable(query, key, value, {"dropout": 0.0, "scaling": 2.0, "position_bias": None})
    assert not is_mergeable(query, key, value, {"dropout": 0.1})
    assert not is_mergeable(query, key, value, {"position_bias": torch.zeros(1)})
    assert not is_mergeable(query, key, value, {"softcap": 30.0})
    assert not is_mergeable(query, key, value[..., :2], {})
    assert not is_mergeable(query, key, value.double(), {})
    assert not is_mergeable(query, key, value.transpose(2, 3).contiguous().transpose(2, 3), {})
    assert not is_mergeable(*(tensor.to("meta") for tensor in (query, key, value)), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_mergeable(query, key, value, {})
        assert is_mergeable(*(tensor.bfloat16() for tensor in (query, key, value)), {})
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert not is_mergeable(query, key, value, {}), "another kernel was asked for"


def test_the_kernel_tells_the_logarithm_of_its_sum_and_takes_that_of_the_whole():
    query, key, value = draw()
    output, lse = attend_with_lse(query, key, value, False, 0.5)
    scores = 0.5 * query @ key.transpose(2, 3)
    torch.testing.assert_close(output, scores.softmax(-1) @ value)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    # Of keys that are part of a whole, whose output and LSE are given: the value's gradient is their share in it.
    gradient = torch.ones_like(output)
    half = slice(0, key.shape[2] // 2)
    *_, of_value = attend_with_lse_backward(
        gradient, query, key[:, :, half], value[:, :, half], output, lse, False, 0.5
    )
    torch.testing.assert_close(of_value, (scores.softmax(-1).transpose(2, 3) @ gradient)[:, :, half])
