"""Decisions about rows: what is written, what holds, and what happens where a row has changed since."""

import json
import logging
from types import SimpleNamespace

import pytest
from PIL import Image

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import (
    DecisionError,
    DecisionFile,
    digest_row,
    leave_out_dropped,
    name_dataset,
    read_decisions,
)
from mmdpo.data.read import read_dataset
from mmdpo.files import UnusableFileError
from mmdpo.training.rows import to_preferences


@pytest.fixture
def pairs(tmp_path):
    """Five rows; the fourth cannot be read, since its answer is a number."""
    rows = [
        {
            "id": f"r{n}",
            "prompt": "<image>What?",
            "chosen": f"a cup {n}",
            "rejected": f"a dog {n}",
            "images": [f"{n}.png"],
        }
        for n in range(1, 6)
    ]
    rows[3]["chosen"] = 4
    return write(tmp_path / "pairs.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def change(path, number, **values):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number - 1] |= values
    write(path, rows)


def decide(pairs, *decisions):
    """Writes (row, decision) pairs as the app does, and returns the file."""
    path, dataset = pairs.parent / "decisions.jsonl", read_dataset(pairs)
    file = DecisionFile(path)
    for row, decision in decisions:
        file.decide(dataset, row - 1, decision, f"reason {row}")
    return path


def ids(dataset):
    return [dataset.row_of(index) for index in range(len(dataset))]


def test_rows_that_are_dropped_are_left_out_and_counted(pairs, caplog):
    path = decide(pairs, (2, "drop"), (4, "drop"), (5, "flag"))
    with caplog.at_level(logging.INFO, "mmdpo"):
        kept = leave_out_dropped(read_dataset(pairs), path)
    assert ids(kept) == [1, 3, 5]
    assert caplog.messages == [f"pairs.jsonl: 2 of 5 rows are dropped by {path}; 1 flagged ones are kept"]


def test_the_later_line_holds(pairs):
    path = decide(pairs, (2, "drop"), (3, "flag"), (2, "keep"), (3, "drop"))
    assert ids(leave_out_dropped(read_dataset(pairs), path)) == [1, 2, 4, 5]
    found = read_decisions(path)
    assert {row: (each.decision, each.line) for (_, row), each in found.items()} == {2: ("keep", 3), 3: ("drop", 4)}


def test_a_line_says_what_was_decided(pairs):
    line = json.loads(decide(pairs, (2, "drop")).read_text())
    assert line.pop("time").startswith("20")
    assert line == {
        "dataset": "pairs.jsonl",
        "row": 2,
        "content": digest_row(read_dataset(pairs), 1),
        "decision": "drop",
        "reason": "reason 2",
    }


@pytest.mark.parametrize(
    "change_of", [{"chosen": "a cap 2"}, {"rejected": "?"}, {"prompt": "<image>Which?"}, {"images": ["9.png"]}]
)
def test_a_row_that_has_changed_since_is_an_error_that_names_file_line_and_row(pairs, change_of):
    path = decide(pairs, (1, "flag"), (2, "drop"))
    change(pairs, 2, **change_of)
    with pytest.raises(DecisionError) as caught:
        leave_out_dropped(read_dataset(pairs), path)
    assert str(caught.value).startswith(f"{path}, line 2: row 2 of pairs.jsonl is no longer what was decided about")


def test_columns_that_say_nothing_of_the_pair_may_change(pairs):
    path = decide(pairs, (2, "drop"))
    change(pairs, 2, score=0.5, remark="seen")
    assert ids(leave_out_dropped(read_dataset(pairs), path)) == [1, 3, 4, 5]


def test_a_row_that_cannot_be_read_is_known_by_all_that_stands_in_it(pairs):
    path = decide(pairs, (4, "drop"))
    change(pairs, 4, chosen=5)
    with pytest.raises(DecisionError, match=r"line 1: row 4 of pairs\.jsonl is no longer"):
        leave_out_dropped(read_dataset(pairs), path)


def test_a_row_that_is_not_there_any_more_is_an_error(pairs):
    path = decide(pairs, (5, "drop"))
    write(pairs, [json.loads(line) for line in pairs.read_text().splitlines()][:4])
    with pytest.raises(DecisionError, match=r"line 1: row 5 of pairs\.jsonl: the dataset has 4 rows"):
        leave_out_dropped(read_dataset(pairs), path)


def test_a_decision_that_was_withdrawn_binds_nobody(pairs):
    path = decide(pairs, (2, "drop"), (2, "keep"))
    change(pairs, 2, chosen="another")
    assert len(leave_out_dropped(read_dataset(pairs), path)) == 5


def test_embedded_pictures_are_known_by_their_content():
    def dataset(colour):
        row = {"prompt": "What?", "chosen": "a", "rejected": "b", "images": [Image.new("RGB", (4, 4), colour)]}
        return PreferenceDataset.from_rows([row])

    assert digest_row(dataset("red"), 0) == digest_row(dataset("red"), 0) != digest_row(dataset("blue"), 0)


def test_a_part_of_a_dataset_is_checked_against_the_whole(pairs):
    path = decide(pairs, (2, "drop"), (5, "drop"))
    part = read_dataset(pairs).select([0, 1])
    assert ids(leave_out_dropped(part, path)) == [1]
    change(pairs, 5, chosen="another")
    with pytest.raises(DecisionError, match="row 5"):
        leave_out_dropped(read_dataset(pairs).select([0, 1]), path)


def test_a_file_about_other_datasets_is_an_error_where_rows_are_trained_on(pairs, tmp_path):
    path = decide(pairs, (2, "drop"))
    other = read_dataset(write(tmp_path / "other.jsonl", [json.loads(pairs.read_text().splitlines()[0])]))
    assert len(leave_out_dropped(other, path)) == 1
    with pytest.raises(DecisionError, match=r"no decision is about other\.jsonl, they are about pairs\.jsonl"):
        leave_out_dropped(other, path, is_needed=True)
    args = SimpleNamespace(decisions=str(path), dataset_format="auto", image_root=None)
    assert len(to_preferences(other, "eval", args)) == 1
    with pytest.raises(DecisionError):
        to_preferences(other, "train", args)


def test_dropping_every_row_is_an_error(pairs):
    path = decide(pairs, *((row, "drop") for row in range(1, 6)))
    with pytest.raises(DecisionError, match="drops every row"):
        leave_out_dropped(read_dataset(pairs), path)


def test_a_last_line_that_is_half_written_is_left_out_in_reading_and_mended_in_writing(pairs, caplog):
    path = decide(pairs, (2, "drop"), (3, "drop"))
    path.write_bytes(path.read_bytes()[:-20])
    size = path.stat().st_size
    assert ids(leave_out_dropped(read_dataset(pairs), path)) == [1, 3, 4, 5]
    assert "only half written" in caplog.text
    assert path.stat().st_size == size, "reading must not write: the app may be about to end the line"
    decide(pairs, (5, "drop"))
    assert ids(leave_out_dropped(read_dataset(pairs), path)) == [1, 3, 4]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "it is list and no object"),
        ('{"dataset": "pairs.jsonl", "row": true, "content": "", "decision": "drop"}', "`row` is True"),
        ('{"dataset": "pairs.jsonl", "row": 1, "content": "", "decision": "remove"}', "write drop, flag or keep"),
        ('{"row": 1}', "`dataset` is None"),
        ("{", "mend or remove the line"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(pairs, line, told):
    path = decide(pairs, (2, "drop"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DecisionError, match=f"line 2: .*{told}"):
        read_decisions(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such file of decisions; `mmdpo app` writes one"):
        read_decisions(tmp_path / "decisions.jsonl")


def test_two_writers_see_each_others_lines(pairs):
    path, dataset = pairs.parent / "decisions.jsonl", read_dataset(pairs)
    one, other = DecisionFile(path), DecisionFile(path)
    assert one.read() == {}
    one.decide(dataset, 0, "drop", "")
    other.decide(dataset, 1, "flag", "why")
    for file in (one, other):
        assert {row: each.decision for (_, row), each in file.read().items()} == {1: "drop", 2: "flag"}


def test_a_file_that_cannot_be_written_is_an_error(pairs):
    (pairs.parent / "taken").write_text("")
    with pytest.raises(UnusableFileError):
        DecisionFile(pairs.parent / "taken" / "decisions.jsonl").decide(read_dataset(pairs), 0, "drop", "")


@pytest.mark.parametrize(
    ("name", "called"),
    [("/data/a/pairs.jsonl", "pairs.jsonl"), ("folder[train]", "folder[train]"), ("org/name[test]", "name[test]")],
)
def test_a_dataset_is_called_by_the_last_part_of_its_name(name, called):
    dataset = PreferenceDataset.from_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}], name=name)
    assert name_dataset(dataset) == called
