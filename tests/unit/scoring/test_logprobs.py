"""Log-probabilities of answers by hand, and what the output head is given."""

import math

import pytest
import torch
from torch import nn

from mmdpo.scoring.logprobs import answer_positions_only, sum_logprobs

PREDICTS = torch.tensor([[False, True, True, False], [False, False, False, False], [False, False, True, False]])


def test_value_by_hand():
    # Probabilities (¼, ¾), (½, ½) and (⅕, ⅘); the first two tokens belong to row 0, the last to row 2.
    logits = torch.tensor([[0, math.log(3)], [7, 7], [-2, -2 + math.log(4)]])
    sums = sum_logprobs(logits, torch.tensor([1, 0, 0]), PREDICTS)
    assert sums.tolist() == pytest.approx([math.log(3 / 4) + math.log(1 / 2), 0, math.log(1 / 5)])


def test_logits_of_16_bits_are_summed_in_float32():
    logits = torch.tensor([[0.5, 9.0], [0.25, 3.0], [2.0, 0.0]], dtype=torch.bfloat16)
    sums = sum_logprobs(logits, torch.tensor([0, 1, 1]), PREDICTS)
    first = -math.log1p(math.exp(8.5)) - math.log1p(math.exp(-2.75))
    assert sums.dtype == torch.float32
    assert sums.tolist() == pytest.approx([first, 0, -math.log1p(math.exp(2))], rel=1e-6)


def test_the_gradient_is_one_hot_minus_probability():
    logits = torch.tensor([[0, math.log(3)], [7, 7], [-2, -2 + math.log(4)]], requires_grad=True)
    sum_logprobs(logits, torch.tensor([1, 0, 0]), PREDICTS).sum().backward()
    expected = torch.tensor([[-1 / 4, 1 / 4], [1 / 2, -1 / 2], [4 / 5, -4 / 5]])
    torch.testing.assert_close(logits.grad, expected)


def test_the_head_sees_the_predicting_positions_alone_row_by_row():
    head = nn.Linear(5, 7)
    hidden = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = []
    head.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    with answer_positions_only(head, PREDICTS):
        logits = head(hidden)
    expected = torch.stack([hidden[0, 1], hidden[0, 2], hidden[2, 2]])
    assert [tensor.tolist() for tensor in seen] == [[expected.tolist()]]
    assert logits.shape == (1, 3, 7)
    torch.testing.assert_close(logits[0], head.weight.mul(expected[:, None]).sum(-1) + head.bias)


def test_the_head_is_itself_again_afterwards_whatever_happened():
    head, hidden = nn.Linear(5, 7), torch.zeros(3, 4, 5)
    with pytest.raises(RuntimeError, match="stopped"), answer_positions_only(head, PREDICTS):
        raise RuntimeError("stopped")
    assert head(hidden).shape == (3, 4, 7)
