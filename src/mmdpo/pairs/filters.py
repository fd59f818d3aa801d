"""Answers that make no pair, whatever a judge holds of them: empty, cut off, looping, refused, or given already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import eq

from mmdpo.pairs.samples import Sample
from mmdpo.texts import split_sentences

EMPTY, CUT, REPEATING, REFUSAL = "empty", "cut off", "repeating", "refusal"
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near duplicate"
LOOP = 4
"""Times that the same words follow each other, where no text means it."""
_REFUSALS = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry,? (but )?i|i (can'?t|cannot|am unable to|am not able to)|as an ai\b"
    r"|unfortunately,? i)",
    re.IGNORECASE,
)
_SHINGLE = 3
"""Words of a piece by which texts are compared."""


def why_useless(sample: Sample) -> str | None:
    """Returns why an answer makes no pair, looking at it alone; None where nothing is wrong with it."""
    if not sample.text.strip():
        return EMPTY
    if sample.finish_reason == "length":
        return CUT
    if is_repeating(sample.text):
        return REPEATING
    return REFUSAL if _REFUSALS.search(sample.text.replace("’", "'")) else None


def is_repeating(text: str) -> bool:
    """Says whether a text loops: its last sentence stands in it before, or some words follow each other four times.

    >>> is_repeating("A dog. A cat. A dog."), is_repeating("hope hope hope hope"), is_repeating("A dog and a cat.")
    (True, True, False)
    """
    words = _words(text)
    again = len(words) - len(set(words))
    if not again:
        return False
    sentences = split_sentences(text)
    if len(sentences) > 1:
        *before, last = (" ".join(_words(sentence)) for sentence in sentences)
        while before and not last:
            last = before.pop()
        if last and last in before:
            return True
    for size in (1, 2, 3, 4):
        if again < size * (LOOP - 1):  # so many words of a loop stand in the text before
            break
        # 1 for each word that is the one so many places before it
        if bytes((LOOP - 1) * size * [1]) in bytes(map(eq, words[size:], words)):
            return True
    return False


def find_repeats(samples: Sequence[Sample], near: float) -> dict[int, str]:
    """Returns the answers, by number, that say what one before them says: equally, or with that share of pieces.

    A piece is three words in a row; the share is that of those in both among those in either (Jaccard). Answers of
    fewer words are compared by their words.
    """
    found = dict[int, str]()
    texts, kept = set[str](), list[frozenset[tuple[str, ...]]]()
    for sample in samples:
        words = _words(sample.text)
        text = " ".join(words)
        if text in texts:
            found[sample.k] = DUPLICATE
            continue
        size = min(_SHINGLE, max(1, len(words)))
        pieces = frozenset(zip(*(words[place:] for place in range(size)), strict=False))
        least, most = near * len(pieces), len(pieces) / near  # beyond these the share is lower
        if near < 1 and any(_share(pieces, other) > near for other in kept if least <= len(other) <= most):
            found[sample.k] = NEAR_DUPLICATE
        else:
            texts.add(text)
            kept.append(pieces)
    return found


@lru_cache(maxsize=256)
def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    both = len(one & other)
    either = len(one) + len(other) - both
    return both / either if either else 1.0
