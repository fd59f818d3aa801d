"""How recipes write objectives: names, JSON, lists, other people's modules; and what is said of a misspelt one."""

import json
from dataclasses import dataclass

import pytest
import torch

from mmdpo.objective import (
    NLL,
    PRESETS,
    Anchor,
    CellScore,
    Objective,
    Rank,
    Term,
    build_objective,
    preset_names,
    term_names,
)
from mmdpo.records import Cell

WIN, LOSE, BLIND = Cell("original", "chosen"), Cell("original", "rejected"), Cell("corrupted", "chosen")

MDPO_WRITTEN_OUT = [
    {"rank": [["original", "chosen"], ["original", "rejected"]]},
    {"rank": [["original", "chosen"], ["corrupted", "chosen"]]},
    {"anchor": ["original", "chosen"]},
]

OURS = [Rank((WIN, LOSE), weight=2.0), {"anchor": ["original", "chosen"], "delta": 1}]
ONE_TERM = Rank((WIN, LOSE))
NO_TERM = int


@dataclass(frozen=True)
class Ridge(Term):
    """Somebody else's term: the squared reward of a cell."""

    cell: Cell
    power: int = 2

    @property
    def cells(self):
        return (Cell(*self.cell),)

    def losses(self, scores, beta):
        return self.reward(scores, *self.cells, beta) ** self.power


def test_a_name_json_a_list_of_mappings_and_terms_say_the_same():
    objective = build_objective("mdpo")
    assert objective.terms == (Rank((WIN, LOSE)), Rank((WIN, BLIND)), Anchor(WIN))
    assert build_objective(" mdpo\n") == objective
    assert build_objective(MDPO_WRITTEN_OUT) == objective
    assert build_objective(json.dumps(MDPO_WRITTEN_OUT)) == objective
    assert build_objective([Rank((WIN, LOSE)), Rank((WIN, BLIND)), {"anchor": WIN}]) == objective
    assert build_objective(objective) is objective


def test_the_symbols_of_a_term_stand_beside_its_cells():
    spec = [
        {"rank": [["original", "chosen"], ["blank", "chosen"]], "weight": 0.5, "beta": 0.2, "label": "blind"},
        {"anchor": ["original", "rejected"], "delta": -1, "side": "below", "weight_column": "severity"},
        {"nll": ["original", "chosen"], "per_token": False},
        {"rank": [["original", "chosen"], ["original", "rejected"]], "loss_type": "ipo"},
        {"rank": [["original", "chosen"], ["corrupted", "chosen"]], "rival": ["original", "rejected"]},
        {"anchor": ["original", "chosen"], "per_token": True, "beta": 1.2},
    ]
    assert build_objective(spec).terms == (
        Rank((WIN, Cell("blank", "chosen")), weight=0.5, beta=0.2, label="blind"),
        Anchor(LOSE, delta=-1, side="below", weight_column="severity"),
        NLL(WIN, per_token=False),
        Rank((WIN, LOSE), loss_type="ipo"),
        Rank((WIN, BLIND), rival=LOSE),
        Anchor(WIN, per_token=True, beta=1.2),
    )


def test_a_name_elsewhere():
    assert build_objective(f"{__name__}:OURS").terms == (Rank((WIN, LOSE), weight=2.0), Anchor(WIN, delta=1))
    (term,) = build_objective([{f"{__name__}:Ridge": ["original", "chosen"], "power": 4, "label": "ridge"}]).terms
    assert (type(term), term.power, term.cells) == (Ridge, 4, (WIN,))


def test_names_are_those_of_the_files_and_the_table():
    assert preset_names() == tuple(PRESETS)
    assert term_names() == ("anchor", "bco", "nll", "rank")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dpo_anchr", r"unknown objective 'dpo_anchr'; did you mean 'dpo_anchor'\? There are mdpo, dpo, "),
        ("mpdo", "did you mean 'mdpo'"),
        ([], "an objective needs at least one term"),
        ("[]", "an objective needs at least one term"),
        (None, "a preset's name or a list of terms; got None"),
        ('{"rank": []}', r"a preset's name or a list of terms; got \{'rank': \[\]\}"),
        ('[{"rank": ]', "the objective is not valid JSON"),
        (["rank"], r"a term is a mapping such as .*; got 'rank'"),
        ([{"rnak": []}], r"exactly one of anchor, bco, nll, rank; got keys \['rnak'\]; did you mean 'rank'\?"),
        ([{"weight": 2, "ancor": []}], "did you mean 'anchor'"),
        ([{"rank": [], "nll": []}], r"exactly one of anchor, bco, nll, rank; got keys \['rank', 'nll'\]\.$"),
        ([{"anchor": ["original", "chosen"], "dleta": 1}], r"anchor has no 'dleta'; did you mean 'delta'\? It takes"),
        ([{"nll": ["original", "chosen"], "cell": 1}], "nll has no 'cell'"),
        ([{"nll": "original"}], r"a cell is a pair \[image, response\]"),
        ([{"anchor": ["original", "chosen"], "delta": "0"}], "delta of the term anchor_chosen must be a number"),
        ("nowhere.at_all:TERMS", "cannot load the objective 'nowhere.at_all:TERMS' .*: No module named 'nowhere'"),
        ("mmdpo.objective:TERMS", "cannot load the objective 'mmdpo.objective:TERMS' .*TERMS"),
        (f"{__name__}:ONE_TERM", "a preset's name or a list of terms; got Rank"),
        ([{f"{__name__}:NO_TERM": ["original", "chosen"]}], "NO_TERM is not a Term"),
        ([{"nowhere:X": ["original", "chosen"]}], "cannot load the term 'nowhere:X'"),
        ("nowhere:X", "No module named 'nowhere'; if it is a file of yours, put its folder into PYTHONPATH"),
        (f"{__name__}:OUR", f"{__name__} has no OUR; did you mean 'OURS'"),
        ("json:TERMS", "json has no TERMS"),
        ([Rank], r"Rank is a class, and a term is one with its symbols filled in: Rank\(\)"),
    ],
)
def test_what_is_no_objective(spec, message):
    with pytest.raises(ValueError, match=message):
        build_objective(spec)


class TestLabels:
    def test_terms_of_one_kind_are_numbered(self):
        labels = [term.label for term in build_objective("svco").terms]
        assert labels == ["rank_image", "rank_image_2", "rank_image_3", "rank_image_4"]
        assert [term.label for term in build_objective("mmedpo").terms] == ["rank_joint"]

    @pytest.mark.parametrize(
        "before", [build_objective("svco").terms, (Rank((WIN, BLIND), label="rank_image_2"),)], ids=["preset", "own"]
    )
    def test_no_term_takes_the_label_of_another(self, before):
        """A label names one loss: of two terms under the same one, the other's would be counted twice."""
        objective = Objective((*before, Rank((WIN, BLIND)), Rank((BLIND, WIN))))
        assert len({term.label for term in objective.terms}) == len(objective.terms)
        assert [term.label for term in objective.terms[: len(before)]] == [term.label for term in before]

    def test_a_label_that_its_writer_chose_stays_whoever_comes_first(self):
        terms = (Rank((WIN, BLIND)), Rank((BLIND, WIN)), Rank((LOSE, BLIND), label="rank_image_2"))
        assert [term.label for term in Objective(terms).terms] == ["rank_image", "rank_image_3", "rank_image_2"]


class TestResponseLoss:
    def test_it_changes_terms_that_rank_responses_under_one_image_and_no_other(self):
        assert build_objective("mdpo").with_response_loss("ipo").terms == (
            Rank((WIN, LOSE), loss_type="ipo"),
            Rank((WIN, BLIND)),
            Anchor(WIN),
        )
        smoothed = build_objective("dpo_no_image").with_response_loss("sigmoid", 0.1)
        assert [term.label_smoothing for term in smoothed.terms] == [0.1]

    def test_the_default_changes_nothing_and_suits_every_objective(self):
        for name in PRESETS:
            objective = build_objective(name)
            assert objective.with_response_loss("sigmoid") is objective

    def test_a_loss_that_a_term_cannot_take_is_refused(self):
        with pytest.raises(ValueError, match="ipo is per token already"):
            Objective((Rank((WIN, LOSE), per_token=True),)).with_response_loss("ipo")

    @pytest.mark.parametrize("name", ["image_dpo", "svco", "mmedpo", "sft_chosen"])
    def test_an_objective_without_such_a_term_refuses_it(self, name):
        with pytest.raises(ValueError, match="this objective has none"):
            build_objective(name).with_response_loss("sigmoid", 0.1)
        with pytest.raises(ValueError, match="this objective has none"):
            build_objective(name).with_response_loss("hinge")

    @pytest.mark.parametrize("own", [{"loss_type": "hinge"}, {"label_smoothing": 0.2}], ids=str)
    def test_a_term_with_a_loss_of_its_own_is_not_overruled(self, own):
        objective = Objective((Rank((WIN, BLIND)), Rank((WIN, LOSE), **own)))
        assert objective.with_response_loss("sigmoid") is objective
        with pytest.raises(ValueError, match="the term rank_response has a loss_type or label_smoothing of its own"):
            objective.with_response_loss("ipo")

    def test_what_rank_refuses_is_refused(self):
        with pytest.raises(ValueError, match=r"loss_type must be one of .*; got 'aot'"):
            build_objective("dpo").with_response_loss("aot")
        with pytest.raises(ValueError, match="label_smoothing goes with"):
            build_objective("dpo").with_response_loss("ipo", 0.1)


class TestSlipsOfATerm:
    @pytest.mark.parametrize(
        ("reduce", "returned"),
        [
            (torch.mean, r"a tensor of shape \(\)"),
            (lambda losses: losses[:, None], r"a tensor of shape \(3, 1\)"),
            (lambda losses: 0.0, "a float"),
        ],
    )
    def test_losses_that_are_not_one_for_each_example_are_refused(self, reduce, returned):
        """A mean would be broadcast, and every example weigh alike."""

        class Reduced(Ridge):
            def losses(self, scores, beta):
                return reduce(super().losses(scores, beta))

        scores = {WIN: CellScore(torch.zeros(3), torch.ones(3, dtype=torch.long), torch.zeros(3))}
        Objective((Ridge(WIN),)).losses(scores, beta=0.1)
        with pytest.raises(ValueError, match=f"the term .* a loss for each of the 3 examples, unreduced; .*{returned}"):
            Objective((Reduced(WIN),)).losses(scores, beta=0.1)

    def test_cells_that_are_none_are_refused_before_anything_is_scored(self):
        class Names(Ridge):
            @property
            def cells(self):
                return ("original", "chosen")

        with pytest.raises(ValueError, match=r"cells of the term Names have to be Cell.*got 'original'"):
            Objective((Names(WIN),))
