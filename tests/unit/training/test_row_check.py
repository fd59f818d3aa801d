"""The check before training: what it takes as a dataset, and what it advises."""

import pytest

from mmdpo.data.check import Fault, describe_faults
from mmdpo.training.config import MDPOConfig
from mmdpo.training.rows import to_preferences

ROW = {"prompt": "<image>What?", "chosen": "A cup.", "rejected": "A car.", "images": ["a.jpg"]}


@pytest.fixture
def args(tmp_path):
    return MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")


def test_leaving_rows_out_is_advised_only_where_rows_would_be_left():
    faults = [Fault(row, f"pairs, row {row}", "odd") for row in (1, 2)]
    assert "on_bad_row: skip" in describe_faults(faults, 3)
    assert "on_bad_row" not in describe_faults(faults, 2)


def test_a_dict_of_lists_is_a_dataset(args):
    assert len(to_preferences({name: [value] * 3 for name, value in ROW.items()}, "train", args)) == 3


@pytest.mark.parametrize("given", ["pairs.jsonl", {"train": 1}, iter([ROW])], ids=["name", "mapping", "iterator"])
def test_what_is_no_dataset_is_refused_with_what_to_give(args, given):
    with pytest.raises(TypeError, match=r"^train is a .*give (one|a) datasets\.Dataset.*list of rows"):
        to_preferences(given, "train", args)
