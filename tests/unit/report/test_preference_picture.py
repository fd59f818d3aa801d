"""What is left of a preference with another picture, and the file that its picture is drawn from."""

import json

import pytest
from PIL import Image

from mmdpo.report.preference_picture import read_pair, share_left


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ({"margin_real": 4.0, "margin_other": 1.0}, 25.0),
        ({"margin_real": 4.0, "margin_other": -1.0}, -25.0),
        ({"margin_real": 0.0, "margin_other": 1.0}, None),
        ({"margin_real": -2.0, "margin_other": 1.0}, None),
        ({"margin_real": None, "margin_other": None}, None),
        ({}, None),
    ],
)
def test_a_share_needs_a_preference(scores, share):
    assert share_left(scores) == share


def test_an_earlier_quickstart_has_no_pair_and_a_damaged_one_is_named(tmp_path):
    problems = []
    assert read_pair(tmp_path, problems) is None
    assert problems == []
    for damaged in ("{", json.dumps({"image": "a.png"}), json.dumps({"image": "a.png", "other_image": "../b.png"})):
        (tmp_path / "pair.json").write_text(damaged)
        assert read_pair(tmp_path, problems) is None
    assert all("pair.json" in problem for problem in problems)
    assert len(problems) >= 3


def test_a_whole_pair_is_read(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    record = {"image": "a.png", "other_image": "b.png", "chosen": "cup .", "rejected": "plate ."}
    (tmp_path / "pair.json").write_text(json.dumps(record))
    pair = read_pair(tmp_path, [])
    assert (pair.image.name, pair.other_image.name, pair.chosen, pair.rejected) == (
        "a.png",
        "b.png",
        "cup .",
        "plate .",
    )
