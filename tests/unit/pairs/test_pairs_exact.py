"""Short answers against the right one: what is the same, and what only looks so."""

import json

import pytest

from mmdpo.pairs.judges import Context, Verdict
from mmdpo.pairs.judges.exact import is_same, judge
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.records import RowError


@pytest.mark.parametrize(
    ("said", "right"),
    [
        # numbers
        ("4", "4"),
        ("There are 4 of them.", "4"),
        ("4.0", "4"),
        ("1,234", "1234"),
        ("1,234,567.5", "1234567.50"),
        (".5", "0.5"),
        ("-3", "-3"),
        ("−3 degrees", "-3"),
        ("+3", "3"),
        ("about 7, I think", "7"),
        ("3 and 4", "3"),
        # fractions and shares
        ("3/10", "0.3"),
        ("0.3", "3/10"),
        ("6 / 20", "3/10"),
        ("30 %", "0.3"),
        ("30%", "30 percent"),
        ("30 per cent of them", "30%"),
        ("0.3", "30 %"),
        ("30", "30 %"),
        ("30 %", "30"),
        ("0", "0 %"),
        # units
        ("12 cm", "12"),
        ("12", "12 cm"),
        ("12 inches", "12 inch"),
        ("1 glass", "1 glasses"),
        ("3 Dogs", "3 dog"),
        # options
        ("B", "B"),
        ("(B) a cup", "B"),
        ("B. a cup", "(B)"),
        ("B) a cup", "B."),
        ("b", "B"),
        ("(b)", "B"),
        ("Option C", "C"),
        ("C is right", "C"),
        ("A", "A"),
        ("A: a cup", "A"),
        ("The answer is (A).", "A"),
        # yes and no
        ("Yes", "yes"),
        ("yep, there is one", "yes"),
        ("Yeah!", "Yes."),
        ("True", "yes"),
        ("No, there is none.", "no"),
        ("nope", "No"),
        # words
        ("A cup.", "cup"),
        ("the red cup", "a Red Cup"),
        ("Route 66", "route 66"),
        ("杯子", "杯子"),
        ("+", "+"),
        # what comes after the last "answer"
        ("3 + 2 makes 5. The answer is 5.", "5"),
        ("My answer is 2. No: the answer is: 5", "5"),
        ("**Answer:** B", "B"),
        ("Final answer = 3/10", "0.3"),
        ("5 is the answer.", "5"),
        ("Yes is the answer", "yes"),
        ("The answer is", "the answer is"),
    ],
)
def test_the_same_said_otherwise_is_right(said, right):
    assert is_same(said, right)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("5", "4"),
        ("3", "-3"),
        ("-3", "3"),
        ("5", ".5"),
        (".5", "5"),
        ("1,2", "12"),
        ("12", "21"),
        ("A4", "4"),
        ("four", "4"),
        ("", "4"),
        ("3/0", "3"),
        ("1/3", "0.33"),
        ("3 %", "30 %"),
        ("30 cm", "30 %"),
        ("0.03", "30 %"),
        ("12 cm", "12 m"),
        ("5 ms", "5 m"),
        ("1" * 5000, "1"),
        # the first number counts
        ("There are 3 dogs and 2 cats.", "2"),
        # options
        ("A cup", "A"),
        ("I think so", "I"),
        ("C", "B"),
        ("because of B", "A"),
        ("", "B"),
        # yes and no
        ("no", "yes"),
        ("It is yes", "yes"),
        ("not at all", "no"),
        ("yesterday", "yes"),
        ("", "no"),
        # words
        ("A cup", "A car"),
        ("cups", "cup"),
        ("red", "a red cup"),
        ("66", "Route 66"),
        ("Route 67", "Route 66"),
        ("", "cup"),
        ("?", "+"),
        ("!", ""),
        # an answer that is not the last one
        ("The answer is 5. No, the answer is 2.", "5"),
        ("I cannot answer that", "that"),
    ],
)
def test_something_else_is_wrong(said, right):
    assert not is_same(said, right)


def test_a_verdict_says_right_or_wrong_of_the_whole_answer():
    prompt = Prompt("a", (), (), {"answer": 4})  # a number, as a table may hold it
    samples = [Sample("a", 1, "4 cups"), Sample("a", 2, "5 cups"), Sample("a", 3, "The answer is four")]
    right, wrong, other = judge(prompt, samples, Context())
    assert right == Verdict(1.0, is_right=True)
    assert wrong == other == Verdict(0.0, is_right=False)
    assert (right.struck, right.right) == (0, 1)
    assert (wrong.struck, wrong.right) == (1, 0)


@pytest.mark.parametrize("is_right", [True, False])
def test_what_it_holds_of_a_whole_answer_is_the_same_once_it_is_read_from_disk(is_right):
    verdict = Verdict(float(is_right), is_right=is_right)
    assert json.loads(json.dumps(verdict.row())) == {"score": float(is_right), "is_right": is_right}
    again = Verdict(**verdict.row())
    assert again == verdict
    assert (again.struck, again.right) == (int(not is_right), int(is_right))


def test_several_right_answers_are_refused():
    prompt = Prompt("a", (), (), {"answer": ["dog", "hound"]}, "rows.jsonl, row 3")
    with pytest.raises(RowError, match=r"rows\.jsonl, row 3: `answer` is \['dog', 'hound'\]: give one text or number"):
        judge(prompt, [Sample("a", 1, "Dog.")], Context())
