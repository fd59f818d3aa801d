"""Length and style: pairs whose chosen answers are shorter, on the whole, teach brevity and not looking.

Of prompts that offer several pairs another one is taken, and where that does not do, pairs are left out, until chosen
and rejected answers have the same mean, of words or of a mark of style.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mmdpo.diagnosis.shortcut import STYLE_WORDS, WORDS
from mmdpo.texts import list_words

TOLERANCE = 0.05
"""Difference of the means, as a share of the mean, that is left."""
UNEVEN = 0.6
"""Area under the curve from which a mark of style decides too much; so does one less than this away from 1."""
Values: TypeAlias = tuple[float, float]
"""Of a pair: a measure of its chosen and of its rejected text."""


MARKS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE) for name, pattern in STYLE_WORDS.items()
}
"""Marks of style: a text has one where the pattern is found."""
_WORDS = {name: frozenset(words.split()) for name, words in WORDS.items()}


def find_marks(text: str) -> list[bool]:
    """Returns of each of `MARKS` whether a text has it."""
    if not text.isascii():  # whose letters are not all one with their lower case: ſ is an s to a pattern
        return [mark.search(text) is not None for mark in MARKS.values()]
    words = set(list_words(text))  # found in a fraction of the time of the patterns
    return [
        mark.search(text) is not None if name not in _WORDS else not _WORDS[name].isdisjoint(words)
        for name, mark in MARKS.items()
    ]


def balance(
    offers: Sequence[Sequence[Values]], taken: Sequence[int | None], tolerance: float = TOLERANCE
) -> list[int | None]:
    """Returns which of each prompt's pairs is taken, None for no pair, so that the means of a measure agree.

    `offers` are the pairs that each prompt would give, the best first, and `taken` those that are taken so far. As few
    as possible are changed, so those first that change most, and none so far that the means differ the other way.
    Pairs are left out, those first that are furthest off, only where no other pair of their prompts does.
    """
    found = list(taken)
    gaps = [[chosen - rejected for chosen, rejected in of] for of in offers]
    open_ = [(place, n) for place, n in enumerate(taken) if n is not None]
    total = sum(gaps[place][n] for place, n in open_)
    size = sum(sum(offers[place][n]) for place, n in open_) / 2
    sign = 1 if total > 0 else -1

    def change(*, leaves_out: bool) -> None:
        """Takes other pairs, or leaves pairs out, until the means agree."""
        nonlocal total, size
        if sign * total <= tolerance * size:
            return
        lowest = min if sign > 0 else max
        waiting = [
            (sign * ((0 if leaves_out else lowest(gaps[place])) - gaps[place][now]), place, now)
            for place, now in enumerate(found)
            if now is not None
        ]
        for _, place, now in sorted(waiting):
            if sign * total <= tolerance * size:
                return
            own = gaps[place][now]
            choices = [(own, None)] if leaves_out else [(own - gap, n) for n, gap in enumerate(gaps[place])]
            for gained, new in sorted(choices, key=lambda of: -sign * of[0]):
                rest = size + ((0 if new is None else sum(offers[place][new])) - sum(offers[place][now])) / 2
                if sign * gained > 0 and sign * (total - gained) >= -tolerance * rest:
                    found[place], total, size = new, total - gained, rest
                    break

    change(leaves_out=False)
    change(leaves_out=True)
    return found


def area_under_curve(values: Sequence[Values]) -> float:
    """Returns in which share of pairs the chosen text has more of something than the rejected one, ties as half."""
    return sum(0.5 if a == b else float(a > b) for a, b in values) / len(values) if values else 0.5


def is_uneven(area: float) -> bool:
    """Says whether a measure of that area under the curve decides too much."""
    return not 1 - UNEVEN <= area <= UNEVEN
