"""SymDPO's rows: what holds of every one of them, in each of the six forms."""

from collections import Counter
from pathlib import Path

import pytest

from mmdpo.data.messages import plain_text
from mmdpo.data.symdpo import FORMS, SHARES, make_rows, read_triplets
from mmdpo.data.validate import validate_example
from mmdpo.records import RowError

COLOURS = ["Red", "red.", "blue", "green", "Blue", "red", "green", "yellow"]
ROWS = [{"image": f"{n}.png", "question": f"What colour is object {n}?", "answer": a} for n, a in enumerate(COLOURS)]
ROWS += [{"image": f"y{n}.png", "question": f"Is it {n}?", "answer": a} for n, a in enumerate(["yes", "no", "yes"])]
TRIPLETS = read_triplets(ROWS, name="vqa.jsonl")
ANSWERS = {triplet.key for triplet in TRIPLETS}


def make(form, count=40, **options):
    return list(make_rows(TRIPLETS, count, shares={form: 1.0}, **options))


def turns(example, role):
    return [plain_text([turn]) for turn in example.prompt if turn["role"] == role]


def query(example):
    return next(triplet for triplet in TRIPLETS if triplet.image == example.images[-1])


def key(text):
    return text.strip().rstrip(".").lower()


@pytest.mark.parametrize("form", FORMS)
def test_what_holds_of_every_row(form):
    for example in make(form):
        validate_example(example)
        demonstrated = [next(t for t in TRIPLETS if t.image == image) for image in example.images[:-1]]
        asked, shown = turns(example, "user"), turns(example, "assistant")
        chosen, rejected = (plain_text(example.responses[name]) for name in ("chosen", "rejected"))
        assert len(demonstrated) == len(shown) == 4
        assert asked[-1] == f"<image>\n{query(example).question}"
        keys = [triplet.key for triplet in demonstrated]
        assert keys.count(query(example).key) == 1
        assert query(example).image not in example.images[:-1]
        assert chosen != rejected
        assert plain_text(example.responses["form"]) == form
        wanted = FORMS[form]
        expected = [f"<image>\n{t.question}" if wanted.keeps_question else "<image>" for t in demonstrated]
        assert asked[:-1] == expected
        if not wanted.is_symbolic:
            assert [key(text) for text in shown] == keys
            assert key(chosen) == query(example).key
        else:
            assert chosen == shown[keys.index(query(example).key)]
            assert len(set(zip(keys, shown, strict=True))) == len(set(keys)) == len(set(shown))
            assert not set(shown) & ANSWERS
        if wanted.rejected == "shown":
            assert rejected in shown
        elif wanted.rejected == "unseen":
            assert rejected not in shown
            assert key(rejected) not in ANSWERS
        else:
            assert key(rejected) in ANSWERS - {query(example).key}
            assert (key(rejected) in ("yes", "no")) == (query(example).key in ("yes", "no"))


def test_rows_depend_on_the_seed_and_their_number_alone():
    assert make("question_shown", 6) == make("question_shown", 9)[:6]
    assert make("question_shown", 6, seed=1) != make("question_shown", 6)


def test_forms_come_in_their_shares():
    forms = Counter(plain_text(example.responses["form"]) for example in make_rows(TRIPLETS, 1000))
    assert {name: forms[name] / 1000 for name in FORMS} == pytest.approx(dict(SHARES), abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demonstrations": 1}, "demonstrations: at least 2"),
        ({"shares": {"genral": 1.0}}, "no form 'genral'"),
        ({"shares": {"general": -1.0}}, r"general is -1\.0"),
        ({"shares": {"general": 0.0}}, "a share above 0"),
    ],
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(ValueError, match=message):
        list(make_rows(TRIPLETS, 1, **options))


@pytest.mark.parametrize("answers", [["red", "blue"], ["red", "red"], ["red"]])
def test_triplets_that_allow_no_row(answers):
    rows = [{"image": f"{n}.png", "question": "?", "answer": answer} for n, answer in enumerate(answers)]
    with pytest.raises(ValueError, match="give more triplets"):
        list(make_rows(read_triplets(rows, name="vqa"), 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"^vqa, row 2: `answer` is None"),
        ({"question": " "}, r"row 2: `question` is ' '"),
        ({"image": None}, "row 2: `image` holds 0 images"),
    ],
)
def test_a_row_without_a_triplet_is_named(change, message):
    with pytest.raises(RowError, match=message):
        read_triplets([ROWS[0], ROWS[1] | change], name="vqa")
    with pytest.raises(RowError, match="vqa, row 2: it is str and no row"):
        read_triplets([ROWS[0], "what"], name="vqa")


def test_relative_paths_are_joined():
    assert read_triplets(ROWS[:1], name="vqa", image_root=Path("images"))[0].image == Path("images/0.png")
