"""Every published objective, worked by hand from one table of log-probabilities, and the facts of mDPO's start."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdpo.objective import PRESETS, Anchor, Objective, Rank, build_objective
from mmdpo.records import Cell

BETA = 0.5
LN_2 = math.log(2)

# Two examples. In the first the reward of a cell is ½ · (log-prob − reference), as noted; in the second the policy is
# the reference, so that every ranking and anchor costs ln 2. The clinical weights of the two are 3 and 2.
CELLS = {
    ("original", "chosen"): ([-10, -30], [-14, -30], [5, 10]),  # 2
    ("original", "rejected"): ([-20, -31], [-18, -31]),  # −1
    ("corrupted", "chosen"): ([-15, -32], [-12, -32]),  # −1.5
    ("corrupted", "rejected"): ([-9, -33], [-10, -33]),  # 0.5
    ("none", "chosen"): ([-16, -34], [-11, -34]),  # −2.5
    ("none", "rejected"): ([-8, -35], [-14, -35]),  # 3
    ("original", "alternative"): ([-12, -36], [-11, -36]),  # −0.5
    ("corrupted", "alternative"): ([-7, -37], [-14, -37]),  # 3.5
    ("random_image", "chosen"): ([-13, -38], [-15, -38]),  # 1
    ("crop_0_20", "chosen"): ([-15, -32], [-13, -32]),  # −1
    ("crop_20_50", "chosen"): ([-15, -32], [-15, -32]),  # 0
    ("noise", "chosen"): ([-19, -40], [-15, -40]),  # −2
    ("patch_mask", "chosen"): ([-11, -41], [-12, -41]),  # 0.5
    ("patch_mask", "alternative"): ([-13, -42], [-10, -42]),  # −1.5
}
WEIGHTS = {"weight": torch.tensor([3.0, 2.0]), "beta": torch.tensor([0.5, 2.0])}


def logistic(margin):
    """−log σ of a margin or of an anchored reward."""
    return math.log1p(math.exp(-margin))


def adapted(ahead):
    """2 σ of how far the rewards are ahead of a rival."""
    return 2 / (1 + math.exp(-ahead))


MDPO = logistic(2 - -1) + logistic(2 - -1.5) + logistic(2)

BY_HAND = {
    "mdpo": [MDPO, 3 * LN_2],
    "mfpo": [MDPO, 3 * LN_2],
    "dpo": [logistic(2 - -1), LN_2],
    "dpo_no_image": [logistic(-2.5 - 3), LN_2],
    "dpo_anchor": [logistic(2 - -1) + logistic(2), 2 * LN_2],
    "dpo_conditional": [logistic(2 - -1) + logistic(2 - -1.5), 2 * LN_2],
    "rdpo": [logistic(2 - -1) + logistic(2 - -1.5), 2 * LN_2],
    "image_dpo": [logistic(2 - -1.5), LN_2],
    "svco": [
        logistic(2 - -2.5) + logistic(-2.5 - -1.5) + logistic(0.5 - 3) + logistic(3 - -1),
        4 * LN_2,
    ],
    "symmpo": [
        logistic(2 - -1) + (logistic(2 - -0.5) + logistic(3.5 - -1.5)) / 2 + logistic(2) + logistic(3.5),
        4 * LN_2,
    ],
    "mmedpo": [3 * logistic(2 - 0.5), 2 * LN_2],
    "dpo_nll": [logistic(2 - -1) + 0.5 * 10 / 5, LN_2 + 0.5 * 30 / 10],
    "hadpo": [logistic(2 - -1) + 0.5 * 10 / 5, LN_2 + 0.5 * 30 / 10],
    "mdpo_other_image": [logistic(2 - -1) + logistic(2 - 1) + logistic(2), 3 * LN_2],
    # A rival at −1: the corrupted image's weight is 2σ(−1.5 + 1), another image's 2σ(1 + 1).
    "mdpo_combined": [
        logistic(2 - -1)
        + 0.5 * adapted(-0.5) * logistic(2 - -1.5)
        + 0.5 * adapted(2) * logistic(2 - 1)
        + logistic(2)
        + 0.1 * 10 / 5,
        3 * LN_2 + 0.1 * 30 / 10,
    ],
    "sft_chosen": [10 / 5, 30 / 10],
    # δ is 0 unless the trainer says more of it.
    "mpo": [0.8 * logistic(3) + 0.2 * (logistic(2) + logistic(1)) + 10 / 5, 1.2 * LN_2 + 30 / 10],
    "mpo_trl": [0.8 * logistic(3) + 0.2 * (logistic(2) + logistic(1)) + 10 / 5, 1.2 * LN_2 + 30 / 10],
    "misp": [logistic(3) + math.log1p(sum(math.exp(r - 2) for r in (1, -1, 0, -2))), LN_2 + math.log(5)],
    "opa": [
        logistic(3)
        + logistic(-0.5 - -1)
        + 0.2 * (logistic(2 - 0.5) + logistic(-0.5 - -1.5))
        + logistic(2)
        + logistic(-0.5),
        4.4 * LN_2,
    ],
    # β of the first example is a quarter.
    "dadpo": [logistic((2 - -1) / 2), LN_2],
}


@pytest.mark.parametrize("name", PRESETS)
def test_value_by_hand(make_scores, name):
    objective = build_objective(name)
    # Nothing but what the objective asks for is scored, and no other reference.
    scored = {
        cell: (CELLS[cell][0], CELLS[cell][1] if cell in objective.reference_cells else None, *CELLS[cell][2:])
        for cell in objective.cells
    }
    weights = {column: WEIGHTS[column] for column in objective.weight_columns}
    losses = objective.losses(make_scores(scored), beta=BETA, weights=weights)
    assert losses.total.tolist() == pytest.approx(BY_HAND[name], rel=1e-12)


def test_the_losses_of_the_terms_stand_apart_before_their_weights(make_scores):
    losses = build_objective("symmpo").losses(make_scores(CELLS), beta=BETA)
    assert {name: values[0].item() for name, values in losses.by_term.items()} == pytest.approx(
        {
            "rank_response": logistic(3),
            "rank_response_2": logistic(2.5),
            "rank_response_3": logistic(5),
            "anchor_chosen": logistic(2),
            "anchor_corrupted_alternative": logistic(3.5),
        }
    )
    assert list(build_objective("hadpo").losses(make_scores(CELLS), beta=BETA).by_term) == [
        "rank_response",
        "nll_chosen",
    ]
    weighted = build_objective("mmedpo").losses(make_scores(CELLS), beta=BETA, weights=WEIGHTS)
    assert weighted.by_term["rank_joint"].tolist() == pytest.approx([logistic(1.5), LN_2])


def test_mdpo_starts_at_three_ln_2(make_scores):
    """Where the policy is the reference every term is ln 2, in float32 and for answers of any length."""
    logprobs = [-0.25, -37.125, -512.6875, -3071.3]
    scores = make_scores(dict.fromkeys(CELLS, (logprobs, logprobs)), dtype=torch.float32)
    losses = build_objective("mdpo").losses(scores, beta=0.1)
    assert losses.total.dtype == torch.float32
    assert losses.total.tolist() == pytest.approx([2.0794415] * 4, abs=1e-5)
    assert {name: values.tolist() for name, values in losses.by_term.items()} == {
        name: pytest.approx([0.6931472] * 4, abs=1e-6) for name in ("rank_response", "rank_image", "anchor_chosen")
    }


def test_mdpo_starts_with_gradients_of_one_and_a_half_and_a_half_beta(make_scores):
    beta = 0.1
    scores = make_scores(dict.fromkeys(CELLS, (-37.0, -37.0)), dtype=torch.float32, requires_grad=True)
    objective = build_objective("mdpo")
    objective.losses(scores, beta=beta).total.sum().backward()
    gradients = {tuple(cell): scores[cell].logprob.grad.item() for cell in objective.cells}
    assert gradients == pytest.approx(
        {
            ("original", "chosen"): -1.5 * beta,
            ("original", "rejected"): 0.5 * beta,
            ("corrupted", "chosen"): 0.5 * beta,
        }
    )


def test_anchors_on_all_three_cells(make_scores):
    """The paper's Table 4: the chosen answer above δ, the other two below."""
    anchors = (
        Anchor(Cell("original", "chosen"), delta=0.25),
        Anchor(Cell("original", "rejected"), delta=0.25, side="below"),
        Anchor(Cell("corrupted", "chosen"), delta=0.25, side="below"),
    )
    total = Objective((*PRESETS["dpo_conditional"], *anchors)).losses(make_scores(CELLS), beta=BETA).total
    expected = logistic(3) + logistic(3.5) + logistic(2 - 0.25) + logistic(0.25 - -1) + logistic(0.25 - -1.5)
    assert total[0].item() == pytest.approx(expected)


@given(weights=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_the_total_is_the_weighted_sum_of_the_terms(make_scores, weights):
    terms = (
        Rank((("original", "chosen"), ("original", "rejected")), weight=weights[0], weight_column="weight"),
        Rank((("original", "chosen"), ("corrupted", "chosen")), weight=weights[1]),
        Anchor(("original", "chosen"), weight=weights[2]),
    )
    total = Objective(terms).losses(make_scores(CELLS), beta=BETA, weights=WEIGHTS).total
    parts = [3 * weights[0] * logistic(3), weights[1] * logistic(3.5), weights[2] * logistic(2)]
    assert total[0].item() == pytest.approx(sum(parts), abs=1e-9)


def test_a_column_weighs_the_gradient_example_by_example(make_scores):
    scores = make_scores({cell: ([-30, -30], [-30, -30]) for cell in CELLS}, requires_grad=True)
    build_objective("mmedpo").losses(scores, beta=BETA, weights=WEIGHTS).total.sum().backward()
    assert scores[Cell("original", "chosen")].logprob.grad.tolist() == [-3 * BETA / 2, -2 * BETA / 2]


def test_what_an_objective_asks_to_be_scored():
    columns = {name: build_objective(name).weight_columns for name in PRESETS}
    assert {name: found for name, found in columns.items() if found} == {"mmedpo": ("weight",), "dadpo": ("beta",)}
    assert build_objective("sft_chosen").reference_cells == ()
    mixed = build_objective([{"nll": ["none", "chosen"]}, {"rank": [["original", "rejected"], ["none", "chosen"]]}])
    assert mixed.cells == (Cell("none", "chosen"), Cell("original", "rejected"))
    assert mixed.reference_cells == (Cell("original", "rejected"), Cell("none", "chosen"))
    supervised = build_objective([{"nll": ["none", "chosen"]}, {"anchor": ["original", "chosen"]}])
    assert supervised.reference_cells == (Cell("original", "chosen"),)


def test_a_term_that_reads_a_reference_nobody_gave_says_so(make_scores):
    with pytest.raises(ValueError, match="no reference log-probability; its term must set `needs_reference`"):
        build_objective("dpo").losses(make_scores({cell: ([-1], None) for cell in CELLS}), beta=BETA)


@pytest.mark.parametrize("name", ["rdpo", "mfpo", "svco", "symmpo"])
def test_presets_that_are_only_themselves_with_images_of_the_dataset_demand_them(name):
    assert build_objective(name).needs_rejected_images
    if name != "svco":  # which ranks no responses under one image
        assert build_objective(name).with_response_loss("sigmoid", 0.1).needs_rejected_images


def test_no_other_objective_demands_images_of_the_dataset():
    assert [name for name in PRESETS if build_objective(name).needs_rejected_images] == [
        "rdpo",
        "mfpo",
        "svco",
        "symmpo",
    ]
    assert not build_objective(PRESETS["svco"]).needs_rejected_images


class TestMeansAndBetasByExample:
    def test_bco_is_measured_from_the_running_mean(self, make_scores):
        losses = build_objective("mpo").losses(make_scores(CELLS), beta=BETA, delta=0.25)
        assert losses.by_term["bco"].tolist() == pytest.approx(
            [logistic(2 - 0.25) + logistic(0.25 - -1), logistic(-0.25) + logistic(0.25)]
        )

    def test_what_it_is_the_mean_of(self, make_scores):
        objective = build_objective("mpo")
        rewards = objective.mean_reward(make_scores(CELLS, requires_grad=True), beta=BETA)
        assert (rewards.tolist(), rewards.requires_grad) == ([0.5, 0.0], False)
        assert objective.tracking_term.label == "bco"
        assert build_objective("mdpo").tracking_term is None

    def test_a_column_multiplies_the_terms_own_beta(self, make_scores):
        terms = [{"rank": [["original", "chosen"], ["original", "rejected"]], "beta": 0.25, "beta_column": "beta"}]
        total = build_objective(terms).losses(make_scores(CELLS), beta=9.0, weights=WEIGHTS).total
        assert total[0].item() == pytest.approx(logistic(0.25 * 0.5 * 6))

    def test_the_gradient_has_the_beta_of_its_example(self, make_scores):
        scores = make_scores({cell: ([-30, -30], [-30, -30]) for cell in CELLS}, requires_grad=True)
        build_objective("dadpo").losses(scores, beta=BETA, weights=WEIGHTS).total.sum().backward()
        assert scores[Cell("original", "chosen")].logprob.grad.tolist() == [-0.25 / 2, -1.0 / 2]

    def test_one_running_mean_at_most(self):
        bco = {"bco": [["original", "chosen"], ["original", "rejected"]]}
        with pytest.raises(ValueError, match="one term with a running mean"):
            build_objective([bco, {**bco, "label": "again"}])
