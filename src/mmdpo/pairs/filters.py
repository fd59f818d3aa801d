"""Answers that make no pair, whatever a judge holds of them: empty, cut off, looping, refused, or given already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import eq

from mmdpo.pairs.samples import Sample
from mmdpo.texts import list_words, split_sentences

EMPTY, CUT, REPEATING, REFUSAL = "empty", "cut off", "repeating", "refusal"
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near duplicate"
LOOP = 4
"""Times that the same words follow each other, where no text means it."""
_REFUSALS = re.compile(
    r"\W*(i'?m sorry|i am sorry|sorry,? (but )?i|i (can'?t|cannot|am unable to|am not able to)|as an ai\b"
    r"|unfortunately,? i)",
    re.IGNORECASE,
)
_SHINGLE = 3
"""Words of a piece by which texts are compared."""
_GOES_ON = re.compile(r"[.!?。！？\n]\s*\S")


def why_useless(sample: Sample) -> str | None:
    """Returns why an answer makes no pair, looking at it alone; None where nothing is wrong with it."""
    if not sample.text.strip():
        return EMPTY
    if sample.finish_reason in ("length", "content_filter"):
        return CUT
    if is_repeating(sample.text):
        return REPEATING
    return REFUSAL if _REFUSALS.match(sample.text.replace("’", "'")) else None


def is_repeating(text: str) -> bool:
    """Says whether a text loops: its last sentence stands in it before, or some words follow each other four times.

    >>> is_repeating("A dog. A cat. A dog."), is_repeating("hope hope hope hope"), is_repeating("A dog and a cat.")
    (True, True, False)
    """
    words, pieces = _split(text)
    if len(set(words)) == len(words):
        return False
    if _GOES_ON.search(text) is not None:
        *before, last = (" ".join(_split(sentence)[0]) for sentence in split_sentences(text))
        while before and not last:
            last = before.pop()
        if last and last in before:
            return True
    # A loop of so many words has no more pieces, so that the others of its pieces are those again.
    again = len(words) - (_SHINGLE - 1) - len(pieces)
    sizes = [size for size in (1, 2, 3, 4) if again >= (LOOP - 1) * size - (_SHINGLE - 1)]
    # 1 for each word that is the one so many places before it
    return any(bytes((LOOP - 1) * size * [1]) in bytes(map(eq, words[size:], words)) for size in sizes)


def find_repeats(samples: Sequence[Sample], near: float) -> dict[int, str]:
    """Returns the answers, by number, that say what one before them says: equally, or with more than that share.

    A piece is three words in a row; the share is that of those in both among those in either (Jaccard). Answers of
    fewer words are compared by their words.
    """
    found = dict[int, str]()
    texts, kept = set[str](), list[frozenset[tuple[str, ...]]]()
    for sample in samples:
        words, pieces = _split(sample.text)
        text = " ".join(words)
        least, most = near * len(pieces), len(pieces) / near  # beyond these the share is lower
        if text in texts:
            found[sample.k] = DUPLICATE
        elif near < 1 and any(_share(pieces, other) > near for other in kept if least <= len(other) <= most):
            found[sample.k] = NEAR_DUPLICATE
        else:
            texts.add(text)
            kept.append(pieces)
    return found


@lru_cache(maxsize=256)
def _split(text: str) -> tuple[list[str], frozenset[tuple[str, ...]]]:
    """Returns the words of a text, and its pieces."""
    words = list_words(text)
    if len(words) < _SHINGLE:
        return words, frozenset([tuple(words)] if words else ())
    return words, frozenset(zip(words, words[1:], words[2:], strict=False))


def _share(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    both = len(one & other)
    either = len(one) + len(other) - both
    return both / either if either else 1.0
