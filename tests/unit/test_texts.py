"""Sentences of texts, where claims stand in them, and which words two of them do not share."""

import doctest
import time

import pytest

from mmdpo import texts
from mmdpo.texts import MOST_WORDS, Piece, differing_words, find_claims, merge, split_pieces


def test_the_examples_in_its_docstrings_hold():
    found = doctest.testmod(texts)
    assert found.attempted >= 5
    assert not found.failed


class TestClaims:
    TEXT = "A cup on a table. Two dogs, cupboards!\nIt is red"

    @pytest.mark.parametrize(
        ("claims", "marked"),
        [
            ([("cup", 0)], ["cup"]),
            ([("CUP", 1)], ["cup"]),
            ([("dog", None)], ["dog"]),
            ([("there are two dogs", 1)], ["Two dogs, cupboards!"]),
            ([("dogs", 1), ("two dogs", 1)], ["Two dogs"]),
            ([("a cat", None)], []),
            ([("a cat", 3)], []),
            ([("a cat", -1)], []),
            ([("table. Two", None)], ["table. Two"]),
            ([("it is (red)", 2), ("table", None)], ["table", "It is red"]),
        ],
    )
    def test_their_words_are_found_from_the_start_of_a_word_else_the_sentence_that_says_them(self, claims, marked):
        assert [self.TEXT[start:end] for start, end in find_claims(self.TEXT, claims)] == marked

    def test_marks_that_touch_are_one(self):
        assert merge([(5, 9), (0, 5), (20, 30), (21, 22)]) == [(0, 9), (20, 30)]


class TestDifferences:
    def differ(self, one, other):
        found = differing_words(one, other)
        return found and tuple([text[a:b] for a, b in of] for text, of in zip((one, other), found, strict=True))

    def test_words_that_follow_each_other_are_one_mark_and_case_and_marks_do_not_count(self):
        assert self.differ("A big red cup, here.", "a Cup here!") == (["big red"], [])
        assert self.differ("one two three four", "one 2 three 4 5") == (["two", "four"], ["2", "4 5"])
        assert self.differ("the same", "The same.") == ([], [])

    def test_texts_that_share_few_words_have_no_marks(self):
        assert differing_words("one two three four five", "six seven eight nine") is None
        assert differing_words("one two three four", "four five six seven") is not None, "a quarter is shared"
        assert differing_words("", "a text") == ([], [(0, 6)])

    @pytest.mark.parametrize("texts", [("a b " * 5000, "a a b b " * 5000), ("a " * 9000, "a " * 8000)])
    def test_long_texts_are_compared_as_far_as_time_allows(self, texts):
        began = time.monotonic()
        one, _ = differing_words(*texts)
        assert time.monotonic() - began < 10
        assert one[-1][1] == len(texts[0].rstrip()), f"what follows the first {MOST_WORDS} words is marked"


def test_pieces_joined_are_the_text_and_each_says_what_it_is():
    text = "a red cup and a plate"
    pieces = split_pieces(text, [(2, 9)], [(6, 13), (16, 21)])
    assert "".join(piece.text for piece in pieces) == text
    assert pieces == [
        Piece("a "),
        Piece("red ", is_wrong=True),
        Piece("cup", is_wrong=True, differs=True),
        Piece(" and", differs=True),
        Piece(" a "),
        Piece("plate", differs=True),
    ]
    assert split_pieces("", [], []) == []
