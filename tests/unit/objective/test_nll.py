"""NLL: nats per token within each example, and no reference."""

import pytest

from mmdpo.objective import NLL
from mmdpo.records import Cell

CELL = Cell("original", "chosen")
SCORE = {CELL: ([-12, -3], None, [4, 2])}


def test_the_mean_is_taken_within_each_example(make_scores):
    """A long answer weighs no more than a short one: 12 nats over 4 tokens, 3 over 2."""
    assert NLL(CELL).losses(make_scores(SCORE), 0.1).tolist() == [3, 1.5]


def test_the_sum_where_asked_for(make_scores):
    assert NLL(CELL, per_token=False).losses(make_scores(SCORE), 0.1).tolist() == [12, 3]


def test_it_needs_no_reference_and_the_gradient_is_spread_over_the_tokens(make_scores):
    scores = make_scores(SCORE, requires_grad=True)
    term = NLL(CELL)
    assert not term.needs_reference
    term.losses(scores, 0.1).sum().backward()
    assert scores[CELL].logprob.grad.tolist() == [-1 / 4, -1 / 2]


def test_per_token_is_a_truth_value():
    with pytest.raises(ValueError, match="per_token of the term nll_chosen must be true or false; got 'no'"):
        NLL(CELL, per_token="no")
