"""What a run reports, by hand, and means that are means over examples."""

from types import SimpleNamespace

import pytest
import torch

from mmdpo.objective import CellScore, build_objective
from mmdpo.records import Cell
from mmdpo.training.metrics import LossWatch, MetricSums, describe_batch
from waits import CountWaits

ONE_PROCESS = SimpleNamespace(num_processes=1, device="cpu")

# With β = ½ the rewards of two examples.
CELLS = {
    Cell("original", "chosen"): ([-10, -20], [-14, -18]),  # 2, −1
    Cell("original", "rejected"): ([-30, -11], [-28, -11]),  # −1, 0
    Cell("corrupted", "chosen"): ([-12, -20], [-18, -18]),  # 3, −1
    Cell("none", "chosen"): ([-9, -9], None),
}


def describe(objective):
    objective = build_objective(objective)
    scores = {}
    for cell in objective.cells:
        logprob, reference = CELLS[cell]
        logprobs = torch.tensor(logprob, dtype=torch.float64, requires_grad=True)
        references = torch.tensor(reference, dtype=torch.float64) if cell in objective.reference_cells else None
        scores[cell] = CellScore(logprobs, torch.tensor([4, 2]), references)
    metrics = describe_batch(objective, scores, objective.losses(scores, beta=0.5), 0.5)
    assert not any(values.requires_grad for values in metrics.values())
    return {name: values.tolist() for name, values in metrics.items()}


def test_mdpo_by_hand():
    metrics = describe("mdpo")
    losses = {name: metrics.pop(name) for name in list(metrics) if name.startswith("loss/")}
    assert metrics == {
        "logps/chosen": [-10, -20],
        "logps/rejected": [-30, -11],
        "logps/corrupted": [-12, -20],
        "rewards/chosen": [2, -1],
        "rewards/rejected": [-1, 0],
        "rewards/corrupted": [3, -1],
        "rewards/margins": [3, -1],
        "rewards/accuracies": [1, 0],
        # Equal rewards are no preference.
        "rewards/image_margins": [-1, 0],
        "rewards/image_accuracies": [0, 0],
    }
    # log(1 + exp(−x)) of the margins and of the reward.
    assert losses == {
        "loss/rank_response": pytest.approx([0.048587, 1.313262], abs=1e-6),
        "loss/rank_image": pytest.approx([1.313262, 0.693147], abs=1e-6),
        "loss/anchor_chosen": pytest.approx([0.126928, 1.313262], abs=1e-6),
    }


def test_the_loss_of_a_term_is_reported_before_its_weight():
    half = describe([{"rank": [["original", "chosen"], ["original", "rejected"]], "weight": 0.5}])
    assert half["loss/rank_response"] == pytest.approx([0.048587, 1.313262], abs=1e-6)


def test_a_cell_without_a_reference_has_no_reward():
    metrics = describe([{"nll": ["none", "chosen"]}])
    assert metrics == {"loss/nll_none_chosen": [9 / 4, 9 / 2], "logps/none_chosen": [-9, -9]}


def test_every_ranked_pair_has_names_of_its_own():
    cells = [list(cell) for cell in CELLS][:3]
    pairs = describe(
        [
            {"rank": cells[:2]},
            {"rank": cells[1::-1]},
            {"rank": cells[1:]},
            {"rank": [cells[0], cells[2]], "label": "blind"},
            {"rank": cells},
        ]
    )
    margins = {name: values for name, values in pairs.items() if name.endswith("margins")}
    assert margins == {
        "rewards/margins": [3, -1],
        "rewards/response_2_margins": [-3, 1],
        "rewards/joint_margins": [-4, 1],
        "rewards/blind_margins": [-1, 0],
    }, "an order of three has no one margin"


class TestMeans:
    def test_they_are_over_examples_where_batches_differ_in_size(self):
        """The mean of (1, 2, 3) and (10), not of their means."""
        sums = MetricSums()
        sums.add({"a": torch.tensor([1.0, 2.0, 3.0])})
        sums.add({"a": torch.tensor([10.0]), "b": torch.tensor([7.0])})
        assert sums.flush(ONE_PROCESS) == {"a": 4.0, "b": 7.0}

    def test_what_was_reported_is_forgotten(self):
        sums = MetricSums()
        sums.add({"a": torch.tensor([1.0])})
        sums.flush(ONE_PROCESS)
        assert sums.flush(ONE_PROCESS) == {}
        sums.add({"a": torch.tensor([5.0])})
        assert sums.flush(ONE_PROCESS) == {"a": 5.0}

    def test_the_device_is_not_waited_for_once_per_metric(self):
        with CountWaits() as waits:
            sums = MetricSums()
            sums.add({"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, torch.tensor([True]))
            assert sums.flush(ONE_PROCESS) == {"a": 1.0, "b": 2.0}
        assert waits.count == 0, "the one that is left is a transfer of all"

    def test_processes_count_by_their_examples(self):
        """Another process saw three examples of a with the sum 30, and the same number of b."""
        other = torch.tensor([[30.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
        reduced = []

        def reduce(table, reduction):
            reduced.append(reduction)
            return table + other

        sums = MetricSums()
        sums.add({"a": torch.tensor([2.0]), "b": torch.tensor([3.0])})
        two = SimpleNamespace(num_processes=2, device="cpu", reduce=reduce)
        assert sums.flush(two) == {"a": 8.0, "b": 2.0}
        assert reduced == ["sum"]


class TestLossesThatAreNotFinite:
    def test_the_first_micro_batch_with_one_is_remembered(self):
        watch = LossWatch()
        assert watch.find() is None
        watch.add(torch.tensor([0.5, 0.7]), torch.tensor([8, 9]), step=1)
        assert watch.find() is None
        watch.add(torch.tensor([torch.nan, 0.7, -torch.inf]), torch.tensor([7, 0, 3]), step=2)
        watch.add(torch.tensor([torch.nan]), torch.tensor([5]), step=3)
        assert watch.find() == (2, [3, 7])

    def test_the_row_of_place_0_is_told_from_none(self):
        watch = LossWatch()
        watch.add(torch.tensor([torch.nan]), torch.tensor([0]), step=4)
        assert watch.find() == (4, [0])

    def test_five_rows_are_named_of_many(self):
        watch = LossWatch()
        watch.add(torch.full((9,), torch.nan), torch.arange(9), step=1)
        step, rows = watch.find()
        assert (step, len(set(rows))) == (1, 5)
