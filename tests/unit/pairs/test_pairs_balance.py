"""Lengths and style of chosen and rejected answers alike in the mean, for as few changes as do."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdpo.diagnosis.shortcut import WORDS
from mmdpo.pairs.balance import MARKS, area_under_curve, balance, find_marks


def means(offers, taken):
    values = [of[n] for of, n in zip(offers, taken, strict=True) if n is not None]
    return [sum(of[side] for of in values) / len(values) for side in (0, 1)]


def difference(offers, taken):
    chosen, rejected = means(offers, taken)
    return (chosen - rejected) / ((chosen + rejected) / 2)


def flip(offers):
    return [[(rejected, chosen) for chosen, rejected in of] for of in offers]


def test_means_that_agree_within_a_twentieth_stay():
    offers = [[(21.0, 20.0), (10.0, 30.0)], [(20.0, 20.0)]]
    assert balance(offers, [0, 0]) == [0, 0]


def test_one_pair_is_changed_where_one_is_enough_and_it_is_the_one_that_changes_most():
    """-12 of 81 words: -3 of 81.5 once the first is changed, still -10 if the second is, which is nearer to even."""
    offers = [[(15.0, 25.0), (20.0, 21.0)], [(20.0, 22.0), (20.0, 20.0)], [(20.0, 20.0)], [(20.0, 20.0)]]
    assert balance(offers, [0, 0, 0, 0]) == [1, 0, 0, 0]


@pytest.mark.parametrize("turn", [lambda offers: offers, flip])
def test_of_two_other_pairs_the_one_that_evens_out_is_taken_in_either_direction(turn):
    """-14 of 60 words: the second offer evens it out to -2, the third would turn it to +6."""
    offers = turn([[(13.0, 27.0), (19.0, 21.0), (23.0, 17.0)], [(20.0, 20.0)], [(20.0, 20.0)]])
    assert balance(offers, [0, 0, 0]) == [1, 0, 0]


@pytest.mark.parametrize("turn", [lambda offers: offers, flip])
def test_a_pair_that_leans_the_other_way_is_taken_before_one_is_left_out(turn):
    """+7 that cannot be changed, and +6 whose third offer is -7: together even, and nothing has to go."""
    offers = turn([[(23.5, 16.5)], [(23.0, 17.0), (22.5, 17.5), (16.5, 23.5)]])
    assert balance(offers, [0, 0]) == [0, 2]


@pytest.mark.parametrize("turn", [lambda offers: offers, flip])
def test_pairs_are_left_out_where_no_other_pair_helps_those_first_that_are_furthest_off(turn):
    """-23 of 100 words: -3 of 80 without the furthest off, which will do; with -26 the next one goes too."""
    offers = turn([[(20.0, 20.0)], [(10.0, 30.0)], [(19.0, 21.0)], [(20.0, 20.0)], [(19.5, 20.5)]])
    assert balance(offers, [0] * 5) == [0, None, 0, 0, 0]
    offers = turn([[(20.0, 20.0)], [(10.0, 30.0)], [(19.0, 21.0)], [(20.0, 20.0)], [(18.0, 22.0)]])
    assert balance(offers, [0] * 5) == [0, None, 0, 0, None]


@pytest.mark.parametrize("turn", [lambda offers: offers, flip])
def test_nothing_is_left_out_that_would_turn_the_difference_the_other_way(turn):
    """+10 and -7 of 40 words: 7.5 %. Without the first it would be -35 %, without the second +50 %."""
    offers = turn([[(25.0, 15.0)], [(16.5, 23.5)]])
    assert balance(offers, [0, 0]) == [0, 0]


def test_prompts_without_a_pair_stay_without_one():
    offers = [[(10.0, 30.0)], [(20.0, 20.0)], [(30.0, 10.0)]]
    assert balance(offers, [0, 0, None]) == [None, 0, None]
    assert balance([], []) == []


def test_more_than_two_pairs_of_a_prompt_each_have_their_own_offers():
    offers = [[(20.0, 26.0), (20.0, 20.0)], [(20.0, 26.0), (20.0, 21.0)]]
    assert balance(offers, [0, 0]) == [1, 1]


def test_the_means_agree_for_hundreds_of_drawn_pairs_with_few_changes():
    """Where chosen answers are 20 % shorter on the whole, and each prompt offers six pairs."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        offers = [[tuple(np.round(generator.normal((16, 20), 4)).clip(1)) for _ in range(6)] for _ in range(300)]
        before = difference(offers, [0] * 300)
        taken = balance(offers, [0] * 300)
        assert before < -0.15
        assert abs(difference(offers, taken)) <= 0.05
        assert None not in taken
        values = np.array(offers)
        gaps, longest = values[..., 0] - values[..., 1], values.mean(2).max(1).sum()
        gains = np.sort(gaps.max(1) - gaps[:, 0])[::-1].cumsum()
        fewest = 1 + int(np.searchsorted(gains, -gaps[:, 0].sum() - 0.05 * longest))  # no choice does with fewer
        assert sum(n != 0 for n in taken) <= 1.1 * fewest + 1


def test_marks_of_style_are_balanced_as_words_are():
    """Three of four chosen answers have the mark and no rejected one; two prompts offer a pair without it."""
    offers = [[(1.0, 0.0), (0.0, 0.0)], [(1.0, 0.0), (0.0, 1.0)], [(1.0, 0.0)], [(0.0, 0.0)]]
    taken = balance(offers, [0, 0, 0, 0])
    assert taken == [1, 1, 0, 0]
    assert means(offers, taken) == [0.25, 0.25]


def test_the_area_under_the_curve_counts_ties_as_half():
    assert area_under_curve([(2.0, 1.0), (1.0, 1.0), (0.0, 1.0), (3.0, 1.0)]) == 0.625
    assert area_under_curve([]) == 0.5


def test_a_mark_is_found_in_texts_that_have_it():
    found = {name for name, mark in MARKS.items() if mark.search("Sure! I HOPE this helps.")}
    assert found == {"polite words", "first person", "exclamation marks"}
    assert not any(mark.search("cup") for mark in MARKS.values())


ALL_WORDS = sorted({word for words in WORDS.values() for word in words.split()})
PIECES = st.sampled_from(
    [*ALL_WORDS, "I", "I’m", "May", "mayor", "_my", "ſure", "\u0130", "é", "7", ", ", "!", "?", "\n- ", " "]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6), st.sampled_from(["", " ", "'", "-"]))
@example(["ſure"], " ")
def test_marks_of_a_text_are_those_whose_patterns_are_found(pieces, between):
    text = between.join(pieces)
    assert find_marks(text) == [mark.search(text) is not None for mark in MARKS.values()]


@pytest.mark.parametrize("name", WORDS)
def test_every_word_of_a_style_marks_a_text(name):
    for word in WORDS[name].split():
        assert find_marks(f"So {word.upper()}.")[list(MARKS).index(name)], word
