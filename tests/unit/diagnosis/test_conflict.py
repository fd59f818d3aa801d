"""Answers from the picture against answers from a text that says the same."""

from pathlib import Path

import pytest
import torch

from mmdpo.benchmarks.option_questions import read_letter, read_questions
from mmdpo.diagnosis.conflict import (
    CONDITIONS,
    Replies,
    decode_contrastively,
    describe_replies,
    make_question,
    summarise,
)
from mmdpo.records import RowError

ROW = {
    "id": "q0",
    "entity": "Arctic hare",
    "question": "What is its genus?",
    "image": "hare.jpg",
    "multiple_choices": {"A": "Lepus", "B": "Marmota", "C": "Sylvilagus", "D": "Ochotona"},
    "multiple_choices_answer": "A",
}


def questions(*changes):
    return read_questions([{**ROW, "id": f"q{n}", **change} for n, change in enumerate(changes)], Path("im"), "q.json")


def test_a_question_is_asked_in_three_ways():
    (question,) = questions({})
    asked = {condition: make_question(question, condition) for condition in CONDITIONS}
    options = "A. Lepus\nB. Marmota\nC. Sylvilagus\nD. Ochotona"
    plain = f"What is its genus?\n{options}\nAnswer with the letter of the right option."
    assert {condition: (q.prompt, q.image) for condition, q in asked.items()} == {
        "image": (plain, Path("im/hare.jpg")),
        "text": (f"The picture shows Arctic hare.\n{plain}", None),
        "neither": (plain, None),
    }


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("The answer is C.", "C"),
        ("(D) Ochotona", "D"),
        ("B: Marmota", "B"),
        ("It is a lepus.", "A"),
        ("Marmota", None),
        ("I do not know", None),
        ("", None),
        ("E", None),
        ("Because it is A", "A"),
    ],
)
def test_the_letter_that_an_answer_names(answer, letter):
    question = questions({})[0]
    assert read_letter(answer, question.options, question.answer) == letter


@pytest.mark.parametrize(
    ("image", "text", "chosen"),
    [
        ([3.0, 1.0, 0.0], [2.0, 1.0, 0.0], 0),  # both prefer the first
        ([5.0, 0.0, 0.0], [0.0, 0.5, 0.0], 0),  # the image is surer
        ([0.5, 0.0, 0.0], [0.0, 5.0, 0.0], 1),  # the text is surer
        # c = 0.844 and 0.728, the image's first: 2.53, 0.12, 2.91.
        ([3.0, 1.0, 0.0], [0.0, 1.0, -4.0], 2),
    ],
)
def test_contrastive_decoding_by_hand(image, text, chosen):
    image, text = torch.tensor(image), torch.tensor(text)
    assert decode_contrastively(image, text) == chosen
    # Logits and log-probabilities decide alike.
    assert decode_contrastively(image.log_softmax(-1), text.log_softmax(-1)) == chosen


def reply(letter, preferred="ABCD".index):
    scores = torch.full((4,), -9.0)
    scores["ABCD".index(letter or "D")] = -0.1
    return Replies(letter or "well", letter, scores)


def test_measures_by_hand():
    """Right with both, with the image alone, with the text alone, wrong with both; and one without the text."""
    asked = questions({}, {}, {}, {}, {"entity": None})
    image, text = ["A", "A", "B", None, "A"], ["A", "C", "A", None]
    replies = {
        "image": {q.id: reply(letter) for q, letter in zip(asked, image, strict=True)},
        "text": {q.id: reply(letter) for q, letter in zip(asked, text, strict=False)},
        "neither": {q.id: reply("B") for q in asked},
    }
    rows = list(describe_replies(asked, replies))
    found = summarise(rows, resamples=100)
    values = {name: (measure["value"], measure["n"]) for name, measure in found["measures"].items()}
    assert values["accuracy_image"] == (60.0, 5)
    assert values["accuracy_text"] == (50.0, 4)
    assert values["accuracy_neither"] == (0.0, 5)
    assert values["unreadable_image"] == (20.0, 5)
    assert {cell: values[cell] for cell in ("both_right", "image_only", "text_only", "both_wrong")} == dict.fromkeys(
        ("both_right", "image_only", "text_only", "both_wrong"), (25.0, 4)
    )
    # No letter is a flip, even where both say none.
    assert values["flip_rate"] == (75.0, 4)
    assert found["notes"] == [
        "1 distinct images: too few for intervals to be trusted, which need 10",
        "1 of 5 questions do not say what the picture shows (`entity`): not asked with the text",
    ]
    assert [row.get("contrastive") for row in rows[:1]] == ["A"]


def test_an_interval_takes_ten_pictures_of_what_it_is_over():
    """Twelve questions about twelve pictures, nine of which name the thing."""
    asked = questions(*({"image": f"{n}.jpg", **({"entity": None} if n > 8 else {})} for n in range(12)))
    image = {q.id: reply("A" if n % 2 else "B") for n, q in enumerate(asked)}
    replies = {"image": image, "text": {q.id: reply("A") for q in asked[:9]}, "neither": image}
    found = summarise(list(describe_replies(asked, replies)), resamples=100)
    low, high = (found["measures"]["accuracy_image"][end] for end in ("low", "high"))
    assert low < 50 < high
    assert found["measures"]["flip_rate"]["value"] == pytest.approx(500 / 9)
    assert [found["measures"]["flip_rate"][end] for end in ("low", "high")] == [None, None]
    few = summarise(list(describe_replies(asked[:9], replies)), resamples=100)
    assert all((of["low"], of["high"]) == (None, None) for of in few["measures"].values())


def test_without_any_entity_nothing_is_said_of_the_text():
    asked = questions({"entity": None}, {"entity": ""})
    replies = {c: {q.id: reply("A") for q in asked} for c in ("image", "neither")} | {"text": {}}
    found = summarise(list(describe_replies(asked, replies)), resamples=100)
    assert set(found["measures"]) == {
        f"{kind}_{condition}" for kind in ("accuracy", "unreadable", "option") for condition in ("image", "neither")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "q.json, row 1: `question` is ''"),
        ({"image": None}, "row 1: `image` is None"),
        ({"multiple_choices_answer": "E"}, "`multiple_choices_answer` is 'E'"),
        ({"multiple_choices": ["a"]}, "write a mapping from letters to texts"),
    ],
)
def test_a_row_that_is_no_question_is_named(change, message):
    with pytest.raises(RowError, match=message):
        questions(change)


def test_an_id_is_given_once():
    with pytest.raises(RowError, match="the id 'q' is given to several"):
        questions({"id": "q"}, {"id": "q"})
