"""Answers that make no pair, and answers that say what another one says."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdpo.pairs.filters import (
    CUT,
    DUPLICATE,
    EMPTY,
    NEAR_DUPLICATE,
    REFUSAL,
    REPEATING,
    find_repeats,
    is_repeating,
    why_useless,
)
from mmdpo.pairs.samples import Sample
from mmdpo.texts import split_sentences

LONG = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("A cup on a table.", "stop", None),
        ("A cup on a table.", "", None),
        ("", "stop", EMPTY),
        (" \n ", "length", EMPTY),
        ("A cup on a", "length", CUT),
        ("A cup on a", "content_filter", CUT),
        ("A dog. A cat. A dog.", "stop", REPEATING),
        ("A dog. A cat. a DOG!", "stop", REPEATING),
        ("A dog. A dog sits.", "stop", None),
        ("A cup, a cup, a cup, a cup.", "stop", REPEATING),
        ("A cup, a cup, a cup.", "stop", None),
        ("so so so so good", "stop", REPEATING),
        ("very very very good", "stop", None),
        ("hope this helps ! hope this helps ! hope this helps ! hope this helps !", "stop", REPEATING),
        ("I'm sorry, I see nothing.", "stop", REFUSAL),
        ("I’m sorry.", "stop", REFUSAL),
        ("Sorry, but I cannot tell.", "stop", REFUSAL),
        ("I can't see it.", "stop", REFUSAL),
        ("As an AI I have no eyes.", "stop", REFUSAL),
        ("Unfortunately, I see no cup.", "stop", REFUSAL),
        ("I can see a cup.", "stop", None),
        ("The man says: I'm sorry.", "stop", None),
        ("Sorry faces all around.", "stop", None),
    ],
)
def test_an_answer_is_useless_for_one_reason_or_none(text, finish_reason, reason):
    assert why_useless(Sample("a", 1, text, finish_reason=finish_reason)) == reason


def repeats(near, *texts):
    return find_repeats([Sample("a", k, text) for k, text in enumerate(texts, start=1)], near)


def test_equal_words_are_a_duplicate_whatever_the_marks_and_case():
    assert repeats(1, "A cup!", "a  CUP", "A cup, red", "A cup.") == {2: DUPLICATE, 4: DUPLICATE}


def test_near_duplicates_share_pieces_of_three_words():
    """Twelve words are ten pieces. A further word at the end leaves ten of eleven common pieces, .909; a word changed
    at the end nine of eleven, .818; the same words in another order none."""
    longer, changed = f"{LONG} thirteen", LONG.replace("twelve", "dozen")
    assert repeats(0.9, LONG, longer, changed) == {2: NEAR_DUPLICATE}
    assert repeats(0.92, LONG, longer, changed) == {}
    assert repeats(0.8, LONG, longer, changed) == {2: NEAR_DUPLICATE, 3: NEAR_DUPLICATE}
    assert repeats(0.1, LONG, " ".join(reversed(LONG.split()))) == {}
    assert repeats(1, LONG, longer) == {}


def test_what_is_only_near_an_answer_that_fell_away_stays():
    """The second is near the first and falls away; the third is near the second alone."""
    words = [f"w{n}" for n in range(40)]
    first, second, third = (" ".join(words[start : start + 36]) for start in (0, 1, 2))
    assert repeats(0.9, first, second) == {2: NEAR_DUPLICATE}
    assert repeats(0.9, second, third) == {2: NEAR_DUPLICATE}
    assert repeats(0.9, first, second, third) == {2: NEAR_DUPLICATE}


def test_answers_of_fewer_than_three_words_are_compared_by_their_words():
    assert repeats(0.9, "red cup", "cup", "red dog", "cup") == {4: DUPLICATE}
    assert repeats(0.9, "!", "?", "cup") == {2: DUPLICATE}  # neither has a word


# -- what is fast is what is said --------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "cup", "dog", "é", "2", "A", "a. ", "cup! ", "dog\n"])
TEXTS = st.lists(WORDS, max_size=18).map(" ".join)


def plain_words(text):
    return re.findall(r"\w+", text.lower())


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_text_loops_where_some_words_follow_each_other_four_times_or_its_last_sentence_was_said(text):
    words = plain_words(text)
    loops = any(
        words[place : place + size] * 4 == words[place : place + 4 * size]
        for size in (1, 2, 3, 4)
        for place in range(len(words) - 4 * size + 1)
    )
    sentences = [found for found in map(plain_words, split_sentences(text)) if found]
    assert is_repeating(text) == (loops or (sentences[-1:] != [] and sentences[-1] in sentences[:-1]))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_words_that_follow_each_other_four_times_loop_wherever_they_stand(size):
    said = " ".join("abcde"[:size])
    for before, after in (("", ""), ("so ", ""), ("", " so"), ("one two ", " three four")):
        assert is_repeating(f"{before}{' '.join([said] * 4)}{after}") == (size < 5)
        assert not is_repeating(f"{before}{' '.join([said] * 3)}{after}")


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_answers_are_repeats_by_the_share_of_their_pieces(texts, near):
    def pieces_of(text):
        words = plain_words(text)
        size = min(3, len(words))
        return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)} if words else set()

    kept, expected = [], {}
    for k, text in enumerate(texts, start=1):
        own = pieces_of(text)
        if any(plain_words(text) == plain_words(other) for other in kept):
            expected[k] = DUPLICATE
        elif near < 1 and any(own and len(own & of) / len(own | of) > near for of in map(pieces_of, kept)):
            expected[k] = NEAR_DUPLICATE
        else:
            kept.append(text)
    assert repeats(near, *texts) == expected
