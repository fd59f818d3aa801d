"""Anchor: both sides of δ, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.objective import Anchor
from mmdpo.records import Cell

CELL = Cell("original", "chosen")
SCORE = {CELL: (-10, -14)}  # a log-ratio of 4: with β = ½ a reward of 2


@pytest.mark.parametrize(
    ("side", "delta", "argument"),
    [("above", 0.0, 2), ("above", 3.0, -1), ("below", 0.0, -2), ("below", 3.0, 1), ("below", -1.5, -3.5)],
)
def test_value(make_scores, side, delta, argument):
    """−log σ of the reward's distance from δ, counted from the side where it should lie."""
    loss = Anchor(CELL, delta=delta, side=side).losses(make_scores(SCORE), 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-argument)))


def test_delta_is_in_reward_units_and_the_terms_beta_wins(make_scores):
    # 2 · 4 − 7 = 1; were δ in nats of log-ratio, it would be 2 · (4 − 7).
    loss = Anchor(CELL, delta=7, beta=2).losses(make_scores(SCORE), 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))


def test_per_token_the_reward_is_a_mean_and_delta_stays_in_reward_units(make_scores):
    # Log-ratios of 4 over 4 tokens and −3 over 2: rewards of ½ · 1 and ½ · −1.5, both 0.25 too high.
    scores = make_scores({CELL: ([-10, -13], [-14, -10], [4, 2])}, requires_grad=True)
    losses = Anchor(CELL, delta=0.25, per_token=True).losses(scores, 0.5)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.25)), math.log1p(math.exp(1))])
    losses.sum().backward()
    slopes = [-0.5 / 4 / (1 + math.exp(0.25)), -0.5 / 2 / (1 + math.exp(-1))]
    assert scores[CELL].logprob.grad.tolist() == pytest.approx(slopes)


@given(st.floats(-100, 100), st.floats(-5, 5))
def test_the_two_sides_are_the_two_outcomes_of_one_coin(make_scores, logratio, delta):
    scores = make_scores({CELL: (logratio, 0)})
    above, below = (Anchor(CELL, delta=delta, side=side).losses(scores, 0.1).item() for side in ("above", "below"))
    assert math.exp(-above) + math.exp(-below) == pytest.approx(1)


def test_rewards_of_ten_thousand_stay_finite_and_pull_back(make_scores):
    scores = make_scores({CELL: ([1e4, -1e4], [0, 0])}, dtype=torch.float32, requires_grad=True)
    losses = Anchor(CELL).losses(scores, 1.0)
    losses.sum().backward()
    assert losses.tolist() == [0, 1e4]
    assert scores[CELL].logprob.grad.tolist() == [0, -1]


def test_no_gradient_reaches_the_reference_and_a_shift_of_both_changes_nothing(make_scores):
    scores, shifted = make_scores(SCORE, requires_grad=True), make_scores({CELL: (-10 - 83, -14 - 83)})
    reference = scores[CELL].ref_logprob.requires_grad_()
    loss = Anchor(CELL).losses(scores, 0.5)
    loss.sum().backward()
    assert reference.grad is None
    # −β σ(−2), the slope of −log σ(β · log-ratio) at 2.
    assert scores[CELL].logprob.grad.item() == pytest.approx(-0.5 / (1 + math.exp(2)))
    assert Anchor(CELL).losses(shifted, 0.5).item() == pytest.approx(loss.item())


def test_an_unknown_side_is_refused():
    with pytest.raises(ValueError, match="side must be above or below; got 'up'"):
        Anchor(CELL, side="up")
