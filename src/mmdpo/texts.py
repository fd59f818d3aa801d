"""Texts of answers: their sentences, where claims stand in them, and which words two of them do not share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Mark: TypeAlias = tuple[int, int]
"""Start and end of a piece of a text."""
LEAST_SHARED = 0.25
"""Share of the words of the shorter text in both below which words that differ are not marked: nearly all would be."""
UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters of scripts that put no blanks around each word: Thai, Lao, Khmer, Japanese, Chinese, Korean."""
_WORD = re.compile(rf"[{UNSPACED}][^\w\s]*|[^\s{UNSPACED}]+")
_LOWER_WORDS = bytes(ord(chr(code).lower() if re.match(r"\w", chr(code)) else " ") for code in range(128)).ljust(256)
"""Of every character of ASCII its lower case, a blank for what is in no word."""
MOST_WORDS = 500
"""Words of a text that are compared with those of another one."""


class Piece(NamedTuple):
    """A piece of an answer."""

    text: str
    is_wrong: bool = False
    """Whether it is a claim that is held to be wrong."""
    differs: bool = False
    """Whether it is not in the other answer of the pair."""


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text, with their marks.

    >>> split_sentences("A cup. Is it red? 3.5 cm tall"), split_sentences("有一只猫。是红色的吗？")
    (['A cup.', 'Is it red?', '3.5 cm tall'], ['有一只猫。', '是红色的吗？'])
    """
    ends = r"(?<=[.!?])\s+|(?<=[。！？])(?![。！？”’」』）])\s*|\n+"
    return [part for part in re.split(ends, text.strip()) if part.strip()]


def find_words(text: str) -> list[Mark]:
    """Returns where the words of a text stand, with their marks; of scripts without blanks each letter is one.

    >>> find_words("A cup."), len(find_words("有3只猫。"))
    ([(0, 1), (2, 6)], 4)
    """
    return [found.span() for found in _WORD.finditer(text)]


def list_words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without marks: its runs of letters, digits and underscores.

    >>> list_words("It's a Ünit_2!")
    ['it', 's', 'a', 'ünit_2']
    """
    if text.isascii():  # a third of the time
        return text.encode().translate(_LOWER_WORDS).decode().split()
    return re.findall(r"\w+", text.lower())


def count_words(text: str) -> int:
    """Returns how many words a text has, as `find_words` finds them."""
    is_spaced = text.isascii() or re.search(f"[{UNSPACED}]", text) is None
    return len(text.split()) if is_spaced else len(find_words(text))


def find_claims(text: str, claims: Iterable[tuple[str, int | None]]) -> list[Mark]:
    """Returns where claims stand in a text: their words, else the sentence, by its number, that says them.

    >>> find_claims("A cup. It is on a table.", [("cup", None), ("the cup is red", 1)])
    [(2, 5), (7, 24)]
    """
    marks = []
    sentences = split_sentences(text)
    for claim, sentence in claims:
        found = re.search(rf"\b{re.escape(claim)}", text, re.IGNORECASE)
        if found is not None:
            marks.append(found.span())
        elif sentence is not None and 0 <= sentence < len(sentences):
            start = text.find(sentences[sentence])
            marks.append((start, start + len(sentences[sentence])))
    return merge(marks)


def merge(marks: Iterable[Mark]) -> list[Mark]:
    """Returns marks that do not overlap, in order.

    >>> merge([(4, 6), (0, 2), (1, 3)])
    [(0, 3), (4, 6)]
    """
    found: list[Mark] = []
    for start, end in sorted(marks):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def differing_words(one: str, other: str) -> tuple[list[Mark], list[Mark]] | None:
    """Returns of two texts the words that are not in the same order in the other one; None where few are shared.

    Words that follow each other are one mark, and upper and lower case are one.

    >>> differing_words("A red cup on a table.", "a cup on the big table")
    ([(2, 5), (13, 14)], [(9, 16)])
    """
    words = [list(re.finditer(r"\w+", text)) for text in (one, other)]
    # What follows the last word that is compared counts as different.
    heard = [[found[0].lower() for found in of[:MOST_WORDS]] for of in words]
    blocks = SequenceMatcher(None, heard[0], heard[1], autojunk=False).get_matching_blocks()
    if sum(block.size for block in blocks) < LEAST_SHARED * min(map(len, heard)):
        return None
    found: tuple[list[Mark], list[Mark]] = ([], [])
    for side, of in enumerate(words):
        kept = {block[side] + step for block in blocks for step in range(block.size)}
        run: list[int] = []
        for place in range(len(of) + 1):
            if place < len(of) and place not in kept:
                run.append(place)
            elif run:
                found[side].append((of[run[0]].start(), of[run[-1]].end()))
                run = []
    return found


def words_not_shared(text: str, others: Iterable[str]) -> list[Mark]:
    """Returns the words of a text that some of the others do not have; those that follow each other are one mark.

    Upper and lower case are one.

    >>> words_not_shared("A red cup on a table.", ["a blue cup", "A red cup"])
    [(2, 5), (10, 12), (15, 20)]
    """
    heard = [{word.lower() for word in re.findall(r"\w+", other)} for other in others]
    shared = set.intersection(*heard) if heard else set()
    marks: list[Mark] = []
    was_marked = False
    for word in re.finditer(r"\w+", text):
        is_marked = bool(heard) and word[0].lower() not in shared
        if is_marked and was_marked:
            marks[-1] = (marks[-1][0], word.end())
        elif is_marked:
            marks.append(word.span())
        was_marked = is_marked
    return marks


def split_pieces(text: str, wrong: Sequence[Mark], differing: Sequence[Mark] = ()) -> list[Piece]:
    """Returns the pieces of a text between the ends of marks; joined they give the text again.

    >>> split_pieces("a red cup", [(6, 9)], [(2, 9)])
    [Piece(text='a ', is_wrong=False, differs=False), Piece(text='red ', is_wrong=False, differs=True), \
Piece(text='cup', is_wrong=True, differs=True)]
    """
    ends = sorted({0, len(text), *(place for mark in (*wrong, *differing) for place in mark if place <= len(text))})

    def is_in(start: int, end: int, marks: Sequence[Mark]) -> bool:
        return any(mark[0] <= start and end <= mark[1] for mark in marks)

    return [
        Piece(text[start:end], is_in(start, end, wrong), is_in(start, end, differing)) for start, end in pairwise(ends)
    ]
