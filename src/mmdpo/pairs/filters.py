"""Answers that make no pair, whatever a judge holds of them: empty, cut off, looping, refused, or given already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

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
    sentences = [" ".join(_words(sentence)) for sentence in split_sentences(text)]
    sentences = [sentence for sentence in sentences if sentence]
    if len(sentences) > 1 and sentences[-1] in sentences[:-1]:
        return True
    for size in (1, 2, 3, 4):
        if again < size * (LOOP - 1):  # so many words of a loop stand in the text before
            break
        run = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            if run >= size * (LOOP - 1):
                return True
    return False


def find_repeats(samples: Sequence[Sample], near: float) -> dict[int, str]:
    """Returns the answers, by number, that say what one before them says: equally, or with that share of pieces.

    A piece is three words in a row; the share is that of those in both among those in either (Jaccard). Answers of
    fewer words are compared by their words.
    """
    found = dict[int, str]()
    kept: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    for sample in samples:
        words = _words(sample.text)
        text = " ".join(words)
        size = min(_SHINGLE, max(1, len(words)))
        pieces = frozenset(tuple(words[place : place + size]) for place in range(len(words) - size + 1))
        if any(text == other for other, _ in kept):
            found[sample.k] = DUPLICATE
        elif near < 1 and any(_share(pieces, other) > near for _, other in kept):
            found[sample.k] = NEAR_DUPLICATE
        else:
            kept.append((text, pieces))
    return found


@lru_cache(maxsize=256)
def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _share(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    if min(len(one), len(other)) < 0.5 * max(len(one), len(other)):
        return 0.0
    union = len(one | other)
    return len(one & other) / union if union else 1.0
