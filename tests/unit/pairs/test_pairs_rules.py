"""Each rule by hand: which two of a few answers it would take, in which order."""

import numpy as np
import pytest

from mmdpo.pairs.judges import Verdict
from mmdpo.pairs.rules import RULES, strike_out
from tests.pairs_help import make_candidate as c

GREEDY = c(0, "one two three four five six", score=1, right=["one", "two", "three"], wrong=["five"])
COMPLETE = c(1, "one two three four", score=4, right=["one", "two", "three", "four"])
SHORT = c(2, "one two", score=2, right=["one", "two"])
NEAR = c(3, "one two six five", score=-2, right=["one", "two"], wrong=["six", "five"])
WORST = c(4, "six five nine eight seven six", score=-6, wrong=["six", "five", "nine"])
MADE = c(5, "one two three", score=3, right=["one", "two", "three"], kind="no_image")
ALL = [GREEDY, COMPLETE, SHORT, NEAR, WORST, MADE]


def propose(rule, candidates, seed=0):
    """The numbers and margins of the pairs that a rule would make, in its order."""
    found = RULES[rule].propose(candidates, lambda: np.random.default_rng(seed))
    return [(pair.chosen.sample.k, pair.rejected.sample.k, pair.margin) for pair in found]


def test_clean_near_takes_the_most_complete_clean_answer_over_the_nearest_in_length_that_has_a_mistake():
    """Of equal distance the one with more mistakes comes first; margins are in claims."""
    assert propose("clean_near", ALL) == [(1, 3, 2), (1, 4, 3), (1, 0, 1), (2, 3, 2), (2, 4, 3), (2, 0, 1)]


def test_clean_worst_takes_it_over_the_worst():
    assert propose("clean_worst", ALL) == [(1, 4, 3), (1, 3, 2), (1, 0, 1), (2, 4, 3), (2, 3, 2), (2, 0, 1)]


def test_best_worst_takes_the_widest_margin_of_scores():
    found = propose("best_worst", ALL)
    assert found[:4] == [(1, 4, 10), (2, 4, 8), (0, 4, 7), (1, 3, 6)]
    assert (1, 5, 1) in found
    assert [margin for *_, margin in found] == sorted((margin for *_, margin in found), reverse=True)
    assert len(found) == 5 + 3 + 1 + 2  # better ones of 1, of 2, of 3 and of 0: ties and 5 choose nothing


def test_ranked_takes_any_two_of_different_scores_in_drawn_order():
    found = propose("ranked", ALL, seed=1)
    assert sorted(found) == sorted(propose("best_worst", ALL))
    assert found != propose("best_worst", ALL)
    assert found == propose("ranked", ALL, seed=1) != propose("ranked", ALL, seed=2)


def test_same_length_takes_answers_whose_lengths_differ_by_a_tenth_at_most():
    assert propose("same_length", ALL) == [(0, 4, 7), (1, 3, 6)]
    ten, eleven, twelve = (c(k, " ".join("abcdefghijkl"[:n]), score=-k) for k, n in ((1, 10), (2, 11), (3, 12)))
    assert propose("same_length", [ten, eleven, twelve]) == [(1, 2, 1), (2, 3, 1)]


def test_correction_takes_the_judges_rewrite_over_the_answer_the_greedy_one_first():
    greedy = c(0, "A dog.", score=-1, wrong=[("dog", 0)], rewrite="A cat.")
    drawn = c(1, "A red dog.", score=-2, wrong=[("red", 0), ("dog", 0)], rewrite="A blue cat.")
    right = c(2, "A cat.", rewrite="A cat.")
    made = c(3, "A bus.", score=-1, wrong=[("bus", 0)], rewrite="A cat.", kind="no_image")
    unread = c(4, "A cow.", score=-1, wrong=[("cow", 0)])
    found = list(RULES["correction"].propose([drawn, made, right, unread, greedy], np.random.default_rng(0)))
    assert [(pair.texts, pair.margin, pair.is_clean) for pair in found] == [
        (("A cat.", "A dog."), 1, True),
        (("A blue cat.", "A red dog."), 2, True),
    ]


def test_struck_out_takes_what_is_left_of_an_answer_over_the_answer():
    listed = c(1, "There is a cup, a dog, a cat.", wrong=[("a dog", 0), ("a cat", 0)])
    said = c(2, "A cup stands there. The dog sleeps.", wrong=[("dog", 1)])
    nothing = c(3, "A dog.", wrong=[("dog", 0)])
    made = c(4, "A cup, a bus.", wrong=[("a bus", 0)], kind="no_image")
    found = list(RULES["struck_out"].propose([made, nothing, said, listed], np.random.default_rng(0)))
    assert [(pair.texts, pair.margin) for pair in found] == [
        (("There is a cup.", listed.sample.text), 2),
        (("A cup stands there.", said.sample.text), 1),
    ]


@pytest.mark.parametrize(
    ("text", "wrong", "left"),
    [
        ("cup , plate , apple .", [("plate", 0)], "cup , apple ."),
        ("cup , plate , apple .", [("cup", 0)], "plate , apple ."),
        ("cup , plate , apple .", [("apple", 0)], "cup , plate ."),
        ("cup , plate .", [("cup", 0), ("plate", 0)], ""),
        ("A cup, a dog house.", [("a dog", 0)], ""),  # it names something else there
        ("A cup and a dog.", [("a dog", 0)], ""),
        ("A cup. A dog, running.", [("a dog", 1)], "A cup. running."),
        ("A cup.", [("dog", None)], "A cup."),  # nobody knows where it stands
        ("A cup.", [("dog", 7)], "A cup."),
    ],
)
def test_a_wrong_claim_is_struck_out_of_a_list_else_with_its_sentence(text, wrong, left):
    assert strike_out(text, c(1, text, wrong=wrong).verdict) == left


def test_right_claims_are_never_struck_out():
    assert strike_out("cup , plate .", c(1, "", right=[("cup", 0)]).verdict) == "cup , plate ."
    assert strike_out("cup , plate .", Verdict(0.0)) == "cup , plate ."


def test_sentence_takes_two_answers_up_to_the_first_sentence_that_differs():
    """Where it is right in one and wrong in the other; what stands before is common, what follows is left off."""
    right = c(1, "A room. A cup stands there. It is red.", right=[("cup", 1)], wrong=[("red", 2)])
    wrong = c(2, "A room. A dog sits there. It is blue.", wrong=[("dog", 1)])
    other = c(3, "A room. It is nice. A cow.", wrong=[("cow", 2)])  # its different sentence says nothing wrong
    early = c(4, "A garden. A cup stands there.", wrong=[("garden", 0)], right=[("cup", 1)])
    found = list(RULES["sentence"].propose([right, wrong, other, early], np.random.default_rng(0)))
    assert [(pair.texts, pair.margin, pair.is_clean) for pair in found] == [
        (("A room. A cup stands there.", "A room. A dog sits there."), 1, True)
    ]


def test_sentence_takes_the_answers_as_they_are_written():
    right = c(1, "A room.\n\n- A cup.\n- It is red.", right=[("cup", 1)])
    wrong = c(2, "A room.\n\n- A dog.", wrong=[("dog", 1)])
    (pair,) = RULES["sentence"].propose([right, wrong], np.random.default_rng(0))
    assert pair.texts == ("A room.\n\n- A cup.", "A room.\n\n- A dog.")
    chinese = c(1, "一个房间。有杯子。是红的。", right=[("杯子", 1)]), c(2, "一个房间。有狗。", wrong=[("狗", 1)])
    (pair,) = RULES["sentence"].propose(chinese, np.random.default_rng(0))
    assert pair.texts == ("一个房间。有杯子。", "一个房间。有狗。")


def test_sentence_takes_no_sentence_that_claims_nothing():
    silent = c(1, "A room. It is nice.", right=[("room", 0)])
    wrong = c(2, "A room. A dog sits there.", wrong=[("dog", 1)])
    assert propose("sentence", [silent, wrong]) == []


def test_negatives_takes_the_best_answers_over_those_made_to_be_rejected():
    bad = c(6, "nine", score=-2, wrong=["nine"], kind="corrupted:crop_0_20")
    assert propose("negatives", [*ALL, bad]) == [(1, 5, 1), (1, 6, 6), (2, 6, 4), (0, 6, 3)]
    assert propose("negatives", ALL[:-1]) == []


@pytest.mark.parametrize("rule", RULES)
def test_an_answer_that_was_made_to_be_rejected_is_never_chosen(rule):
    """It is the best, the most complete, rewritten, and right where the own one is wrong."""
    made = c(2, "A room. A cup, a dog.", score=9, right=[("cup", 1), ("room", 0)], kind="no_image", rewrite="A cup.")
    flawed = c(
        3, "A room. A cow, a bus.", score=-9, wrong=[("cow", 1)], right=[("room", 0)], kind="no_image", rewrite="A hen."
    )
    own = c(1, "A room. A fly, a dog.", score=-2, wrong=[("fly", 1)], right=[("room", 0)], rewrite="A gnat.")
    found = list(RULES[rule].propose([own, made, flawed], lambda: np.random.default_rng(0)))
    assert {pair.chosen.sample.k for pair in found} <= {1}


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_proposed_of_one_answer_and_of_answers_that_are_all_right(rule):
    assert propose(rule, []) == []
    assert propose(rule, [COMPLETE]) == []
    assert propose(rule, [c(1, "A cup.", right=["cup"]), c(2, "The cup!", right=["cup"])]) == []


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "sentence"])  # whose order is that of the answers
def test_the_order_of_the_answers_decides_nothing(rule):
    assert propose(rule, list(reversed(ALL))) == propose(rule, ALL)
