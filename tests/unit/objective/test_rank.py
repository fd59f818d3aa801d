"""Rank: values by hand, and what must hold of any likelihood of an order."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.objective import Rank, build_objective

WIN, LOSE, BLIND = ("original", "chosen"), ("original", "rejected"), ("corrupted", "chosen")
PAIR = (WIN, LOSE)
NATS = st.floats(-200, 200)

# With β = ½ the rewards are ½ · (−10 + 14) = 2, ½ · (−20 + 18) = −1 and ½ · (−9 + 10) = ½.
CELLS = {WIN: (-10, -14, 4), LOSE: (-20, -18, 8), BLIND: (-9, -10)}


def softplus(x):
    return math.log1p(math.exp(x))


def loss(term, scores, beta=0.5):
    return term.losses(scores, beta).item()


class TestPairs:
    def test_value(self, make_scores):
        assert loss(Rank(PAIR), make_scores(CELLS)) == pytest.approx(softplus(-3))
        assert loss(Rank((LOSE, WIN)), make_scores(CELLS)) == pytest.approx(softplus(3))

    def test_the_terms_beta_wins_over_the_runs(self, make_scores):
        # The log-ratios 4 and −2 differ by 6.
        assert loss(Rank(PAIR, beta=0.25), make_scores(CELLS), beta=9.0) == pytest.approx(softplus(-1.5))

    def test_label_smoothing_mixes_in_the_opposite_preference(self, make_scores):
        expected = 0.9 * softplus(-3) + 0.1 * softplus(3)
        assert loss(Rank(PAIR, label_smoothing=0.1), make_scores(CELLS)) == pytest.approx(expected)

    @pytest.mark.parametrize(("beta", "expected"), [(0.5, 0), (0.1, 1 - 0.6)])
    def test_hinge(self, make_scores, beta, expected):
        assert loss(Rank(PAIR, loss_type="hinge"), make_scores(CELLS), beta) == pytest.approx(expected)

    def test_hinge_grows_by_the_margin_of_a_wrong_order(self, make_scores):
        assert loss(Rank((LOSE, WIN), loss_type="hinge"), make_scores(CELLS)) == 1 + 3

    def test_ipo_averages_over_the_tokens_of_each_answer(self, make_scores):
        # 4 nats over 4 tokens, −2 nats over 8: they differ by 1.25, and should by 1/(2β).
        ipo = Rank(PAIR, loss_type="ipo")
        assert loss(ipo, make_scores(CELLS), beta=0.5) == pytest.approx((1.25 - 1) ** 2)
        assert loss(ipo, make_scores(CELLS), beta=0.1) == pytest.approx((1.25 - 5) ** 2)
        assert loss(dataclasses.replace(ipo, beta=0.25), make_scores(CELLS), beta=0.1) == pytest.approx(0.75**2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_margins_of_ten_thousand_stay_finite_and_pull_back(self, make_scores, dtype):
        scores = make_scores({WIN: ([1e4, -1e4, -1e4], [0, 0, 0]), LOSE: ([0, 0, 1e4], [0, 0, 0])}, dtype=dtype)
        logprob = scores[WIN].logprob.requires_grad_()
        losses = Rank(PAIR).losses(scores, 1.0)
        losses.sum().backward()
        torch.testing.assert_close(losses, torch.tensor([0, 1e4, 2e4], dtype=dtype), rtol=4e-3, atol=0)
        assert logprob.grad.tolist() == [0, -1, -1]

    @given(st.lists(NATS, min_size=4, max_size=4))
    def test_turning_the_pair_around_costs_the_margin(self, make_scores, nats):
        scores = make_scores({WIN: nats[:2], LOSE: nats[2:]})
        margin = 0.1 * ((nats[0] - nats[1]) - (nats[2] - nats[3]))
        difference = loss(Rank((LOSE, WIN)), scores, 0.1) - loss(Rank(PAIR), scores, 0.1)
        assert difference == pytest.approx(margin, abs=1e-9)


class TestPerToken:
    def test_each_answer_is_divided_by_its_own_length(self, make_scores):
        # 4 nats over 4 tokens, −2 nats over 8: with β = 2 the rewards are 2 and −½.
        scores = make_scores(CELLS, requires_grad=True)
        value = Rank(PAIR, per_token=True).losses(scores, 2.0)
        assert value.item() == pytest.approx(softplus(-2.5))
        value.sum().backward()
        push = 2 / (1 + math.exp(2.5))
        gradients = {tuple(cell): score.logprob.grad for cell, score in scores.items()}
        assert gradients == {WIN: pytest.approx(-push / 4), LOSE: pytest.approx(push / 8), BLIND: None}

    @given(nats=st.lists(NATS, min_size=4, max_size=4), length=st.integers(1, 50))
    def test_with_one_length_it_is_a_smaller_beta(self, make_scores, nats, length):
        scores = make_scores({WIN: (*nats[:2], length), LOSE: (*nats[2:], length)})
        assert loss(Rank(PAIR, per_token=True), scores, 0.1 * length) == pytest.approx(loss(Rank(PAIR), scores, 0.1))

    @given(copies=st.integers(2, 5))
    def test_saying_it_all_again_changes_nothing(self, make_scores, copies):
        again = {cell: tuple(copies * value for value in CELLS[cell]) for cell in PAIR}
        per_token = Rank(PAIR, per_token=True)
        assert loss(per_token, make_scores(again)) == pytest.approx(loss(per_token, make_scores(CELLS)))

    def test_an_answer_without_tokens_is_no_division_by_zero(self, make_scores):
        assert loss(Rank(PAIR, per_token=True), make_scores({WIN: (0, 0, 0), LOSE: (0, 0, 5)})) == softplus(0)


class TestRival:
    """The conditional term of mDPO with the rejected answer as the rival."""

    TERM = Rank((WIN, BLIND), rival=LOSE)

    def test_value(self, make_scores):
        # Rewards 2, ½ and −1: the response margin 3 is 1½ ahead of the image margin 1½.
        expected = 2 / (1 + math.exp(-1.5)) * softplus(-1.5)
        assert loss(self.TERM, make_scores(CELLS)) == pytest.approx(expected)
        assert self.TERM.cells == (WIN, BLIND, LOSE)

    def test_it_counts_once_where_the_margins_agree_twice_without_an_image_and_not_where_the_image_decides(
        self, make_scores
    ):
        plain = Rank((WIN, BLIND))
        for blind, lose, weight in ((-9, -9, 1), (3, -200, 2), (-200, 3, 0)):
            scores = make_scores({WIN: (3, 0), BLIND: (blind, 0), LOSE: (lose, 0)})
            assert loss(self.TERM, scores) == pytest.approx(weight * loss(plain, scores), abs=1e-12)

    def test_the_weight_carries_no_gradient(self, make_scores):
        scores = make_scores(CELLS, requires_grad=True)
        self.TERM.losses(scores, 0.5).sum().backward()
        gradients = {tuple(cell): score.logprob.grad for cell, score in scores.items()}
        slope = 2 / (1 + math.exp(-1.5)) * 0.5 / (1 + math.exp(1.5))
        assert gradients == {WIN: pytest.approx(-slope), BLIND: pytest.approx(slope), LOSE: None}

    def test_the_terms_beta_and_length_hold_for_the_weight_too(self, make_scores):
        # Log-ratios per token 1, 1/5 and −1/4, with β = 2.
        term = dataclasses.replace(self.TERM, beta=2, per_token=True)
        expected = 2 / (1 + math.exp(-0.9)) * softplus(-1.6)
        assert loss(term, make_scores(CELLS), beta=9.0) == pytest.approx(expected)


class TestOrders:
    def test_plackett_luce_of_three(self, make_scores):
        best_of_three = math.log(math.exp(2) + math.exp(0.5) + math.exp(-1)) - 2
        best_of_two = math.log(math.exp(0.5) + math.exp(-1)) - 0.5
        order = Rank((WIN, BLIND, LOSE))
        assert loss(order, make_scores(CELLS)) == pytest.approx(best_of_three + best_of_two)

    def test_label_smoothing_mixes_in_the_reversed_order(self, make_scores):
        forwards, backwards = (
            loss(Rank(order), make_scores(CELLS)) for order in ((WIN, BLIND, LOSE), (LOSE, BLIND, WIN))
        )
        smoothed = Rank((WIN, BLIND, LOSE), label_smoothing=0.2)
        assert loss(smoothed, make_scores(CELLS)) == pytest.approx(0.8 * forwards + 0.2 * backwards)

    @given(st.lists(st.floats(-20, 20), min_size=2, max_size=4))
    def test_the_likelihoods_of_all_orders_sum_to_one(self, make_scores, rewards):
        cells = [(f"image{place}", "chosen") for place in range(len(rewards))]
        scores = make_scores({cell: (reward, 0) for cell, reward in zip(cells, rewards, strict=True)})
        total = sum(math.exp(-loss(Rank(order), scores, 1.0)) for order in itertools.permutations(cells))
        assert total == pytest.approx(1)

    def test_margins_of_ten_thousand_stay_finite(self, make_scores):
        scores = make_scores({WIN: ([1e4], [0]), BLIND: ([0], [0]), LOSE: ([-1e4], [0])}, dtype=torch.float32)
        assert loss(Rank((WIN, BLIND, LOSE)), scores, 1.0) == 0
        # −1e4 against 1e4, then 0 against 1e4.
        assert loss(Rank((LOSE, BLIND, WIN)), scores, 1.0) == pytest.approx(3e4)


@pytest.mark.parametrize(
    "term",
    [
        Rank(PAIR),
        Rank(PAIR, loss_type="ipo"),
        Rank(PAIR, loss_type="hinge"),
        Rank((WIN, BLIND, LOSE)),
        Rank(PAIR, per_token=True),
        Rank((WIN, BLIND), rival=LOSE),
    ],
    ids=["sigmoid", "ipo", "hinge", "three", "per_token", "rival"],
)
class TestAnyLoss:
    @given(shift=st.lists(NATS, min_size=3, max_size=3))
    def test_a_prompt_that_both_models_find_easier_changes_nothing(self, make_scores, term, shift):
        shifted = {
            cell: (logprob + by, reference + by, *rest)
            for by, (cell, (logprob, reference, *rest)) in zip(shift, CELLS.items(), strict=True)
        }
        assert loss(term, make_scores(shifted)) == pytest.approx(loss(term, make_scores(CELLS)), abs=1e-9)

    def test_every_example_has_its_own_loss(self, make_scores, term):
        one = {WIN: (-10, -14), LOSE: (-20, -18), BLIND: (-9, -10)}
        other = {WIN: (-3, -1), LOSE: (-2, -7), BLIND: (-6, -5)}
        both = {cell: tuple(map(list, zip(one[cell], other[cell], strict=True))) for cell in one}
        expected = [loss(term, make_scores(one)), loss(term, make_scores(other))]
        assert term.losses(make_scores(both), 0.5).tolist() == pytest.approx(expected)
        assert expected[0] != expected[1]

    def test_no_gradient_reaches_the_reference(self, make_scores, term):
        scores = make_scores({WIN: (-3, -1), LOSE: (-2, -7), BLIND: (-6, -5)}, requires_grad=True)
        references = [score.ref_logprob.requires_grad_() for score in scores.values()]
        term.losses(scores, 0.5).sum().backward()
        assert [reference.grad for reference in references] == [None] * 3
        assert all(scores[cell].logprob.grad != 0 for cell in term.order)


class TestSets:
    SET = Rank((WIN, (LOSE, BLIND)))

    def test_one_winner_against_all_others_together(self, make_scores):
        assert loss(self.SET, make_scores(CELLS)) == pytest.approx(math.log(1 + math.exp(-1 - 2) + math.exp(0.5 - 2)))

    def test_one_member_is_a_pair(self, make_scores):
        scores = make_scores(CELLS)
        assert loss(Rank((WIN, (LOSE,))), scores) == pytest.approx(loss(Rank(PAIR), scores))

    def test_the_members_have_no_order(self, make_scores):
        scores = make_scores(CELLS)
        assert loss(Rank((WIN, (BLIND, LOSE))), scores) == pytest.approx(loss(self.SET, scores))

    def test_it_is_the_first_factor_of_an_order(self, make_scores):
        scores = make_scores(CELLS)
        assert loss(Rank((WIN, LOSE, BLIND)), scores) == pytest.approx(
            loss(self.SET, scores) + loss(Rank((LOSE, BLIND)), scores)
        )

    def test_the_winner_is_compared_with_each(self):
        assert self.SET.comparisons == ((WIN, LOSE), (WIN, BLIND))
        assert self.SET.cells == (WIN, LOSE, BLIND)

    def test_yaml_writes_it_as_a_list_in_a_list(self):
        rank = build_objective([{"rank": [list(WIN), [list(LOSE), ["corrupted:blank", "chosen"]]]}]).terms[0]
        assert (rank.is_set, rank.ranked) == (True, (WIN, LOSE, ("blank", "chosen")))

    def test_margins_of_ten_thousand_stay_finite(self, make_scores):
        scores = make_scores({WIN: (-1e4, 0), LOSE: (0, 0), BLIND: (0, 0)}, requires_grad=True)
        value = self.SET.losses(scores, 1.0)
        value.sum().backward()
        assert value.item() == pytest.approx(1e4, rel=1e-3)
        assert scores[WIN].logprob.grad.item() == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("order", "symbols", "message"),
    [
        ((WIN,), {}, r"two or more different cells, best first; got \['\[original, chosen\]'\]"),
        ((WIN, LOSE, WIN), {}, "two or more different cells"),
        (("original", "chosen"), {}, r"a cell is a pair \[image, response\] such as .*; got 'original'"),
        ((WIN, ("original", "rejected", "chosen")), {}, r"a cell is a pair"),
        (PAIR, {"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\); got 0.5"),
        (PAIR, {"label_smoothing": -0.1}, r"label_smoothing must lie in"),
        (PAIR, {"loss_type": "aot"}, "loss_type must be one of sigmoid, .*, discopop; got 'aot'"),
        (PAIR, {"loss_type": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
        ((WIN, (LOSE,)), {"label_smoothing": 0.1}, "label_smoothing goes with an order"),
        ((WIN, ()), {}, "a cell is a pair"),
        ((WIN, (LOSE, WIN)), {}, "two or more different cells"),
        ((WIN, LOSE, (BLIND,)), {}, "a set stands in the second place"),
        (((WIN, LOSE), BLIND), {}, "a set stands in the second place"),
        ((WIN, LOSE, BLIND), {"loss_type": "ipo"}, "loss_type ipo ranks two cells"),
        (PAIR, {"loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing goes with .*; got loss_type hinge"),
        (PAIR, {"weight": "1e-2"}, "weight of the term rank_response must be a number, such as 0.01; got '1e-2'"),
        (PAIR, {"weight": math.nan}, "must be a number"),
        (PAIR, {"label_smoothing": "0.1"}, "label_smoothing of the term rank_response must be a number"),
        (PAIR, {"loss_type": "ipo", "per_token": True}, "ipo is per token already; leave per_token out"),
        (PAIR, {"per_token": 1}, "per_token of the term rank_response must be true or false; got 1"),
        (PAIR, {"rival": WIN}, r"rival is a third cell .*; got the rival \[original, chosen\], the order"),
        (PAIR, {"rival": "rejected"}, "a cell is a pair"),
        (PAIR, {"rival": BLIND, "loss_type": "hinge"}, "two that are ranked by loss_type sigmoid; .* loss_type hinge"),
        ((WIN, LOSE, BLIND), {"rival": ("none", "chosen")}, "rival is a third cell"),
        (PAIR, {"beta": 0}, "beta of the term rank_response must be positive; got 0"),
        (PAIR, {"beta": True}, "beta of the term rank_response must be a number"),
    ],
)
def test_what_is_no_ranking(order, symbols, message):
    with pytest.raises(ValueError, match=message):
        Rank(order, **symbols)
