"""Which rows a query finds, and in which order; hand-made rows whose answer is known."""

import doctest
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from mmdpo.app import pair_index
from mmdpo.app.pair_index import FILTERS, PairIndex, Query, differ_in_one_object, look_at, read_range
from mmdpo.app.pair_measures import read_measures
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import Decision
from mmdpo.data.read import read_dataset

ROWS = [
    {"chosen": "a red cup on a table", "rejected": "a red dog on a table", "images": ["1.png"]},
    {"chosen": "a cup", "rejected": "a cup", "images": ["2.png"]},
    {"chosen": "one two three four", "rejected": "one", "images": ["3.png"]},
    {"chosen": "Straße", "rejected": "eine breite lange Allee", "images": []},
    {"chosen": "", "rejected": "nothing", "images": ["5.png"]},
    {"chosen": 6, "rejected": "a number", "images": ["6.png"]},
]


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "pairs.jsonl"
    prompts = ("What is\nthere?" if n != 4 else "Where?" for n in range(1, 7))
    rows = [{"id": f"r{n}", "prompt": p, **row} for n, (p, row) in enumerate(zip(prompts, ROWS, strict=True), start=1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    margins = {"r1": 0.5, "r3": -2}
    index = PairIndex(read_dataset(path), measures={"margin": lambda example: margins.get(example.id, math.nan)})
    index.start()
    index.wait()
    return index


def find(index, decisions=(), **query):
    made = {("pairs.jsonl", row): Decision("pairs.jsonl", row, "", decision) for row, decision in decisions}
    return (index.select(Query(**query), made) + 1).tolist()


@pytest.mark.parametrize(
    ("name", "rows"),
    {
        "faulty": [2, 5, 6],
        "equal answers": [2],
        "one word differs": [1],
        "one object differs": [1],
        "chosen is longer": [3],
        "rejected is longer": [4],
        "without an image": [4],
        "flagged": [3],
        "dropped": [2],
        "not decided": [1, 4, 5, 6],
    }.items(),
)
def test_filters_find_the_rows_that_are_like_that(index, name, rows):
    decisions = [(2, "drop"), (3, "flag"), (4, "keep"), (99, "drop")]
    assert find(index, decisions, filters=(name,)) == rows


def test_every_filter_is_known(index):
    for name in FILTERS:
        find(index, filters=(name,))


def test_filters_search_and_length_all_have_to_hold(index):
    assert find(index, filters=("chosen is longer",), least_words=4) == [3]
    assert find(index, filters=("chosen is longer",), search="cup") == []
    assert find(index, least_words=4, most_words=4) == [3, 4]


@pytest.mark.parametrize(
    ("text", "rows"),
    {
        "CUP": [1, 2],
        "what IS there": [1, 2, 3, 5],
        "strasse": [4],
        "r3": [3],
        "table a": [],
        "nothing": [5],
        " ": [1, 2, 3, 4, 5, 6],
    }.items(),
)
def test_texts_are_found_whatever_their_case_and_line_breaks(index, text, rows):
    assert find(index, search=text) == rows


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("as in the file", [1, 2, 3]),
        ("chosen longer, by most words", [3, 1, 2]),
        ("rejected longer, by most words", [4, 5, 1]),
        ("longest", [1, 3, 4]),
        ("shortest", [6, 5, 2]),
        ("lowest margin", [3, 1]),
        ("highest margin", [1, 3]),
    ],
)
def test_orders(index, order, first):
    assert order in index.list_orders()
    assert find(index, sort=order)[: len(first)] == first
    assert len(find(index, sort=order)) == (2 if "margin" in order else 6), "rows without a margin have no place"


def test_an_order_that_is_none_is_refused(index):
    with pytest.raises(ValueError, match="cannot be sorted by 'upwards'"):
        find(index, sort="upwards")


def test_all_rows_come_at_once_and_before_they_were_read():
    index = PairIndex(PreferenceDataset.from_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3))
    assert index.select(Query(), {}).tolist() == [0, 1, 2]
    assert "0 of 3" in index.describe_progress()
    index.start()
    index.wait()
    assert (
        index.describe_progress() == "All 3 rows are read; no text is faulty. A picture is tried when its row is shown."
    )


def test_no_image_is_opened(index, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("an image was opened"))
    example, facts = look_at(index.dataset, 0)
    assert (facts.images, facts.fault, example.id) == (1, "", "r1")


def test_a_faulty_row_says_why(index):
    _, facts = look_at(index.dataset, 4)
    assert "`chosen` is empty" in facts.fault
    example, facts = look_at(index.dataset, 5)
    assert example is None
    assert index.faults.keys() == {1, 4, 5}
    assert facts.fault == index.faults[5]


def test_what_ends_the_reading_is_raised_where_it_is_waited_for(monkeypatch):
    index = PairIndex(PreferenceDataset.from_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}]))
    monkeypatch.setattr(index, "_read_row", lambda _: (_ for _ in ()).throw(OSError("no room")))
    index.start()
    with pytest.raises(OSError, match="no room"):
        index.select(Query(search="b"), {})
    assert "no room" in index.describe_progress()


@pytest.mark.parametrize(
    ("one", "other", "vocabulary", "expected"),
    [
        ("a puppy on a table", "a cat on a table", {"puppy": "dog", "dog": "dog", "cat": "cat"}, True),
        ("a puppy on a table", "a dog on a table", {"puppy": "dog", "dog": "dog"}, False),
        ("a dog, a cat", "a dog", {"dog": "dog", "cat": "cat"}, True),
        ("a dog, a cat", "a car, a bus", {name: name for name in ("dog", "cat", "car", "bus")}, False),
        ("a dog", "dogs", {}, False),
        ("a dog on the grass", "a horse on the grass", {}, True),
        ("a dog and a cup", "a horse with a hat", {}, False),
        ("the same", "the same", {}, False),
    ],
)
def test_one_object(one, other, vocabulary, expected):
    assert differ_in_one_object(one, other, vocabulary) is expected


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match="write 10-80"):
        read_range("ten")


def test_the_docstrings_examples_hold():
    found = doctest.testmod(pair_index)
    assert found.attempted >= 3
    assert not found.failed


def test_measures_of_a_diagnosis_are_found_by_id_and_chosen_answer(tmp_path, index):
    lines = [
        {"id": "r1", "chosen": "a red cup on a table", "reliance": 0.25, "margins": {"real": 1.5, "none": 1.25}},
        {"id": "r2", "chosen": "another answer", "reliance": 9, "margins": {"real": 9}},
        {"id": "r3", "chosen": "one two three four", "reliance": None, "margins": []},
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, []]))
    place = SimpleNamespace(path=tmp_path, label="mdpo")
    found = read_measures([place])
    values = {name: [measure(index.dataset[row]) for row in range(3)] for name, measure in found.items()}
    assert np.array_equal(values["image reliance"], [0.25, math.nan, math.nan], equal_nan=True)
    assert np.array_equal(values["margin"], [1.5, math.nan, math.nan], equal_nan=True)
    assert list(read_measures([place, SimpleNamespace(path=tmp_path, label="dpo")])) == [
        "image reliance (mdpo)", "margin (mdpo)", "image reliance (dpo)", "margin (dpo)",
    ]  # fmt: skip
