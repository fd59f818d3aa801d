"""Coloured answers: where a token stands, what its colour says, and that it can be read on it."""

import json
import re
from importlib.resources import files

import pytest

from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.report.diagnosis import write_diagnosis
from mmdpo.report.tokens import LEVELS, Piece, colour_answers, list_colours, split_tokens
from tests.unit.report.makers import write_diagnosed, write_lines

STYLE = (files("mmdpo.report") / "templates" / "tokens.css").read_text(encoding="utf-8")


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_colour_and_each_is_stronger_than_the_one_before(mode):
    colours = {name: values[mode] for name, *values in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", STYLE)}
    ink, paper = colours["token-ink"], ("#f6f8fa", "#1d2126")[mode]
    for side in ("up", "down"):
        steps = [colours[f"{side}-{level}"] for level in range(1, len(LEVELS) + 1)]
        assert min(contrast(ink, step) for step in steps) >= 4.5
        strength = [contrast(paper, step) for step in steps]
        assert strength == sorted(strength)
    assert contrast(colours["token-soft"], paper) >= 4.5


def test_every_colour_has_a_mark_of_its_side_beside_it():
    for css, _ in list_colours():
        for name in css.split()[1:]:
            assert re.search(rf"\.{name} {{[^}}]*background[^}}]*text-decoration-thickness", STYLE), name
    assert "underline solid" in STYLE
    assert "underline wavy" in STYLE
    assert [text for _, text in list_colours()] == ["−2", "−1", "−0.5", "−0.1", "0", "+0.1", "+0.5", "+1", "+2"]


@pytest.mark.parametrize(
    ("value", "css"),
    [
        (0.0, "token"),
        (0.099, "token"),
        (0.1, "token up-1"),
        (-0.1, "token down-1"),
        (0.7, "token up-2"),
        (1.0, "token up-3"),
        (-30.0, "token down-4"),
        (float("nan"), "token"),
        (float("-inf"), "token down-4"),
    ],
)
def test_a_colour_says_how_many_nats(value, css):
    assert Piece("a", value).css == css


def test_tokens_stand_in_their_text_and_the_end_of_the_turn_behind_it():
    pieces = split_tokens("a red cup", ["a", " red", " cup", "</s>"], [[0, 1], [1, 5], [5, 9], [9, 9]], [0, 1, -2, 0.5])
    assert [(piece.text, piece.value, piece.is_mark) for piece in pieces] == [
        ("a", 0, False),
        (" red", 1, False),
        (" cup", -2, False),
        ("</s>", 0.5, True),
    ]
    assert (pieces[1].blanks, pieces[1].words) == (" ", "red")
    assert Piece("\n", 1.0).words == "\n"


def test_bytes_of_one_character_are_one_piece_with_their_sum():
    pieces = split_tokens("a🐕", ["a", "🐕", "🐕", "🐕"], [[0, 1], [1, 2], [1, 2], [1, 2]], [0.0, 0.5, 1.0, -0.25])
    assert [(piece.text, piece.value) for piece in pieces] == [("a", 0.0), ("🐕", 1.25)]


def test_what_was_cut_off_has_no_value():
    pieces = split_tokens("a red cup", ["a"], [[0, 1]], [2.0])
    assert [(piece.text, piece.value) for piece in pieces] == [("a", 2.0), (" red cup", None)]


@pytest.mark.parametrize(
    "spans",
    [[[5, 2], [0, 1]], [[-1, 4], [0, 99]], [[0], []], [[float("nan"), 2.0], [float("inf"), 1.0]], [[3, 4], [0, 4]]],
)
def test_no_span_loses_or_doubles_text(spans):
    pieces = split_tokens("abcd", ["x", "y"], spans, [1.0, 1.0])
    assert "".join(piece.text for piece in pieces if not piece.is_mark) == "abcd"


def test_numbers_that_are_none_are_shown_as_such_and_cost_nothing_else():
    values = [float("inf"), float("-inf"), float("nan")]
    answer = {"text": "abc", "tokens": ["a", "b", "c"], "spans": [[0, 1], [1, 2], [2, 3]]}
    (found,) = colour_answers({**answer, "policy": {"real": values, "none": [0.0, 0.0, 0.0]}})
    assert [piece.css for piece in found.pieces] == ["token up-4", "token down-4", "token"]
    assert found.total
    assert "“a”" in found.note()


def test_an_answer_is_compared_with_every_image_none_first_and_misfits_are_left_out():
    answer = {"text": "a", "tokens": ["a"], "spans": [[0, 1]]}
    answer |= {"policy": {"real": [-1.0], "corrupted": [-3.0], "none": [-1.5], "other": [-1.0, -2.0]}}
    answer |= {"reference": {"none": [-1.0]}}
    found = colour_answers(answer)
    assert [(of.label, of.total) for of in found] == [
        ("policy, against no image", "+0.50"),
        ("policy, against the corrupted image", "+2.00"),
    ]
    assert found[1].note() == "most: “a” +2.00"
    assert found[0].note() == "most: “a” +0.50"


class TestPage:
    def test_a_token_has_its_colour_its_value_in_words_and_stays_text(self, tmp_path):
        folder = write_diagnosed(tmp_path / "diagnosis")
        row = json.loads((folder / "per_token.jsonl").read_text())
        row["answers"]["chosen"]["text"] = "a <b>"
        row["answers"]["chosen"]["tokens"][1] = " <b>"
        write_lines(folder / "per_token.jsonl", [row])
        page = write_diagnosis(folder).read_text()
        assert '<span class="token up-4" title="+3.25 nats">&lt;b&gt;<span class="nats"> +3.25</span></span>' in page
        assert '<span class="token up-2 end" title="+0.75 nats">&lt;/s&gt;' in page
        assert "policy, against no image: sum +4.00 nats" in page
        assert "<dt>rejected</dt><dd>r</dd>" in page, "what has no tokens is shown as before"
        assert "<dt>chosen</dt><dd>c</dd>" in page, "of the other pair"

    def test_a_folder_of_before_is_shown_as_before(self, tmp_path):
        folder = write_diagnosed(tmp_path / "diagnosis")
        (folder / "per_token.jsonl").unlink()
        page = write_diagnosis(folder).read_text()
        assert page.count("<dt>chosen</dt><dd>c</dd>") == 2
        assert 'class="token' not in page
        assert "What is missing" not in page

    def test_a_damaged_file_costs_its_colours_alone_and_is_named(self, tmp_path):
        folder = write_diagnosed(tmp_path / "diagnosis")
        rows = [{"rank": 1, "answers": {"chosen": {"text": 3, "tokens": "a", "spans": [["x"]], "policy": [1]}}}, [], {}]
        write_lines(folder / "per_token.jsonl", rows)
        page = write_diagnosis(folder).read_text()
        assert page.count("<dt>chosen</dt><dd>c</dd>") == 2
        assert "1 lines of per_token.jsonl are damaged" in page
        assert "per_token.jsonl: answers.chosen.text is a number, not a text" in page


@pytest.mark.parametrize(
    ("per_token", "expected"),
    [("0", []), ("1", [7]), ("3", [7, 5, 1]), ("4", [7, 5, 3, 1]), ("5", [7, 5, 9, 3, 1]), ("all", [7, 5, 9, 3, 1])],
)
def test_as_many_pairs_of_either_end_are_kept_as_asked_for(tmp_path, per_token, expected):
    options = DiagnosisOptions(dataset="world", model="world", out=tmp_path, per_token=per_token)
    assert options.select_ends([7, 5, 9, 3, 1]) == expected
