"""What the page of pairs says of rows: the list, one row in full, and decisions about it."""

import html
import json
import re

import pytest

from mmdpo.app.pair_index import Query
from mmdpo.app.pair_pictures import HowCorrupted
from mmdpo.app.pair_view import PairsView, describe_answers, list_turns, move
from mmdpo.data.decisions import DecisionFile
from mmdpo.data.read import read_dataset

MARKUP = "<b>bold</b> & <script>alert(1)</script>"


@pytest.fixture
def view(tmp_path):
    rows = [
        {"id": f"r{n}", "prompt": f"question {n}", "chosen": f"a cup {n}", "rejected": f"a dog {n}", "weight": n}
        for n in range(1, 61)
    ]
    rows[1] |= {"id": MARKUP, "prompt": MARKUP, "chosen": MARKUP}
    rows[2]["rejected"] = 3
    return open_view(tmp_path, rows)


def open_view(folder, rows):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = PairsView(read_dataset(folder / "pairs.jsonl"), DecisionFile(folder / "decisions.jsonl"))
    view.index.start()
    return view


def numbers(rendered):
    return [int(number) for number in re.findall(r'class="number">(\d+)<', rendered)]


def test_the_list_is_the_page_of_the_current_row(view):
    every = view.select(Query())
    first = view.render_rows(every, 0)
    assert numbers(first) == list(range(1, 26))
    assert "1–25 of 60 rows" in first
    last = view.render_rows(every, 55)
    assert numbers(last) == list(range(51, 61))
    assert re.search(r'data-place="55" aria-current="true"', last)
    some = view.select(Query(search="cup 5"))
    assert "1–11 of 11 rows (all: 60)" in view.render_rows(some, 4)
    assert "no row of 60" in view.render_rows(view.select(Query(search="never")), 0)


def test_moving_stays_inside_the_selected_rows(view):
    some = view.select(Query(search="cup 5"))  # rows 5 and 50 to 59
    assert [move(some, 4, steps) for steps in (-1, 0, 1, 99)] == [4, 4, 49, 58]
    assert move(some, 7, 1) == 4, "a row that is not shown leads to the first that is"
    assert move(view.select(Query(search="never")), 7, 1) == 7


def test_markup_is_text_everywhere(view):
    rows = view.render_rows(view.select(Query()), 1)
    for rendered in (rows, view.render_pictures(1, HowCorrupted()), view.render_texts(1)):
        assert "<script>" not in rendered
        assert "<b>" not in rendered
        assert html.escape(MARKUP) in rendered or "&lt;b&gt;bold" in rendered


def test_a_row_in_full(view):
    said = view.render_texts(4)
    assert "question 5" in said
    assert re.findall("<mark>(.*?)</mark>", said) == ["cup", "dog"]
    assert "3 words" in said
    assert "<dt>weight</dt><dd>5</dd>" in said
    head = view.render_pictures(4, HowCorrupted())
    assert "Row 5" in head
    assert "This row has no image." in head


def test_a_row_that_cannot_be_read_shows_why_and_what_stands_there(view):
    assert "faulty" in view.render_pictures(2, HowCorrupted())
    assert 'role="alert"' in view.render_pictures(2, HowCorrupted())
    assert "<dt>rejected</dt><dd>3</dd>" in view.render_texts(2)
    assert "(cannot be read)" in view.render_rows(view.select(Query()), 0)


def test_decisions_are_shown_where_they_were_made(view):
    view.decide(4, "drop", " too short ")
    view.decide(5, "flag", "")
    assert "dropped: too short" in view.render_texts(4)
    assert view.find_decision(4).reason == "too short"
    assert re.findall('class="badge (\\w+)"', view.render_rows(view.select(Query()), 0)) == ["wrong", "drop", "flag"]
    assert view.select(Query(filters=("dropped",))).tolist() == [4]
    view.decide(4, "keep", "")
    assert view.select(Query(filters=("dropped",))).tolist() == []
    assert "dropped" not in view.render_texts(4)


def test_a_row_that_has_changed_since_it_was_decided_about_is_told(view, tmp_path):
    view.decide(4, "drop", "")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    rows[4]["chosen"] = "another"
    assert "has changed since" in open_view(tmp_path, rows).render_pictures(4, HowCorrupted())


def test_turns_say_who_speaks():
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    assert list_turns((turn,)) == [{"role": "prompt", "text": "<image>What?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]}
    assert [of["role"] for of in list_turns((turn, answer, turn))] == ["user", "assistant", "user"]
    assert list_turns("<image>What?") == [{"role": "prompt", "text": "<image>What?"}]


def test_what_cannot_be_marked_is_said(view, tmp_path):
    row = {"prompt": "?", "chosen": "a b c d e f", "rejected": "u v w x y z"}
    far = open_view(tmp_path, [row, row | {"rejected": row["chosen"]}])
    from mmdpo.app.pair_index import look_at

    assert "too few words" in describe_answers(*look_at(far.dataset, 0))[1]
    assert describe_answers(*look_at(far.dataset, 1))[1] == "The answers are equal."


def test_a_row_without_an_id_of_its_own_is_named_by_its_number_alone(tmp_path):
    rows = [{"prompt": "what?", "chosen": "a cup", "rejected": "a dog"}] * 2
    own = open_view(tmp_path, [{**row, "id": f"r{n}"} for n, row in enumerate(rows)])
    assert re.search(r"Row 2\s*<[^>]*>r1<", own.render_pictures(1, HowCorrupted()))
    assert not re.search(r"Row 2\s*<[^>]*>2<", open_view(tmp_path, rows).render_pictures(1, HowCorrupted()))
