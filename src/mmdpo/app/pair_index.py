"""What is known of every row of a dataset, so that 100,000 of them can be searched, filtered and sorted.

Each row is read once, in the background, and none of its images is opened. Numbers stay in arrays; texts, which are
searched alone, lie in a file that the system keeps in memory while there is room.
"""

from __future__ import annotations

import mmap
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from jaxtyping import Bool, Int

from mmdpo.benchmarks.linguistics import TableLinguistics
from mmdpo.data.check import as_fault
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import DROP, FLAG, Decisions, name_dataset
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.data.validate import validate_example
from mmdpo.pairs.judges import find_objects
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

FAULTY, FLAGGED, DROPPED, UNDECIDED = "faulty", "flagged", "dropped", "not decided"
EQUAL, ONE_WORD, ONE_OBJECT = "equal answers", "one word differs", "one object differs"
CHOSEN_LONGER, REJECTED_LONGER, WITHOUT_IMAGE = "chosen is longer", "rejected is longer", "without an image"
FILTERS = (
    FAULTY, FLAGGED, DROPPED, UNDECIDED, EQUAL, ONE_WORD, ONE_OBJECT, CHOSEN_LONGER, REJECTED_LONGER, WITHOUT_IMAGE,
)  # fmt: skip
IN_ORDER = "as in the file"
_LOWEST, _HIGHEST = "lowest", "highest"
_CHOSEN_MORE, _REJECTED_MORE = "chosen longer, by most words", "rejected longer, by most words"
_LONGEST, _SHORTEST, _FEWEST = "longest", "shortest", "fewest changed words"
_ORDERS = (_CHOSEN_MORE, _REJECTED_MORE, _LONGEST, _SHORTEST, _FEWEST)
_PAUSE = 0.001
"""Seconds that the reading thread leaves to others after each block of rows."""
_BLOCK = 50
_LINGUISTICS = TableLinguistics()


@dataclass(frozen=True)
class Query:
    """Which rows are shown, and in which order; all of them in the order of the file unless something is set."""

    search: str = ""
    """Text that prompt, answers or id have in them, upper and lower case being one."""
    filters: tuple[str, ...] = ()
    """Of `FILTERS`; a row has to pass all."""
    least_words: int | None = None
    most_words: int | None = None
    """Of the longer answer."""
    sort: str = IN_ORDER

    @property
    def is_plain(self) -> bool:
        """Whether every row is shown as it comes, for which nothing has to be known of it."""
        return self == Query()


def read_range(text: str) -> tuple[int | None, int | None]:
    """Returns the least and the most that a text names, each None where it does not. Raises ValueError for others.

    >>> read_range("10-80"), read_range("-80"), read_range("10-"), read_range("25"), read_range("")
    ((10, 80), (None, 80), (10, None), (25, 25), (None, None))
    """
    found = re.fullmatch(r"\s*(\d*)\s*([-–]?)\s*(\d*)\s*", text)
    if found is None:
        raise ValueError(f"{text!r:.40} is no range of numbers: write 10-80, 10- or -80")
    least, dash, most = found.groups()
    return int(least) if least else None, int(most) if most else int(least) if least and not dash else None


@dataclass(frozen=True)
class PairFacts:
    """What is known of one row without opening its images."""

    chosen_words: int = 0
    rejected_words: int = 0
    images: int = 0
    changed: tuple[int, int] = (0, 0)
    """Words of either answer between their common beginning and their common end."""
    fault: str = ""


def look_at(dataset: PreferenceDataset, index: int) -> tuple[PreferenceExample | None, PairFacts]:
    """Returns a row and what is known of it; of a faulty one at least why, whatever it raises."""
    example: PreferenceExample | None = None
    fault = ""
    try:
        example = dataset[index]
        validate_example(example)
    except Exception as error:
        fault = as_fault(dataset, index, error).problem
    if example is None:
        return None, PairFacts(fault=fault)
    said = [_words(plain_text(example.responses.get(name, ""))) for name in (CHOSEN, REJECTED)]
    return example, PairFacts(len(said[0]), len(said[1]), len(example.images), count_changed(*said), fault)


def count_changed(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Returns how many words of each lie between the common beginning and the common end.

    >>> count_changed("a red cup on a table".split(), "a dog on a table".split())
    (2, 1)
    """
    shorter = min(len(one), len(other))
    start = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    left = shorter - start
    end = next((place for place in range(left) if one[-1 - place] != other[-1 - place]), left)
    return len(one) - start - end, len(other) - start - end


def differ_in_one_object(one: str, other: str, vocabulary: Mapping[str, str]) -> bool:
    """Returns whether one object that a text names is another in the other text, or is named by one of them alone.

    Objects are those of the vocabulary; without one, words that may be nouns.

    >>> differ_in_one_object("a cup on a table", "two dogs on tables", {})
    True
    """
    if vocabulary:
        named = [set(find_objects(text, vocabulary)) for text in (one, other)]
        own, others = named[0] - named[1], named[1] - named[0]
    else:
        # Only words that one text alone has can tell: looking at all takes ten times as long.
        words = [set(re.findall(r"\w+", text.lower())) for text in (one, other)]
        alone = [" ".join(words[0] - words[1]), " ".join(words[1] - words[0])]
        shared = [set(_LINGUISTICS.lemmas(text)) for text in alone]
        own = set(_LINGUISTICS.nouns(alone[0])) - shared[1] - words[1]
        others = set(_LINGUISTICS.nouns(alone[1])) - shared[0] - words[0]
    return max(len(own), len(others)) == 1


class PairIndex:
    """A dataset's rows as numbers. `start` begins reading; what needs all rows waits for it."""

    def __init__(
        self,
        dataset: PreferenceDataset,
        *,
        vocabulary: Mapping[str, str] | None = None,
        measures: Mapping[str, Callable[[PreferenceExample], float]] | None = None,
    ) -> None:
        self.dataset, self.name = dataset, name_dataset(dataset)
        self.measures = dict(measures or {})
        """By what they are called: numbers of a row that it can be sorted by, NaN where there is none."""
        self._vocabulary = vocabulary or {}
        rows = len(dataset)
        self.chosen_words = np.zeros(rows, np.int32)
        self.rejected_words = np.zeros(rows, np.int32)
        self.images = np.zeros(rows, np.int16)
        self.changed = np.zeros((rows, 2), np.int32)
        self.values = {name: np.full(rows, np.nan, np.float32) for name in self.measures}
        self.faults: dict[int, str] = {}
        self._texts = tempfile.TemporaryFile()  # noqa: SIM115 — it lives as long as the index
        self._starts, self._written = np.zeros(rows, np.int64), 0
        self.done = 0
        """Rows that were read."""
        self._ended = threading.Event()
        self._failed: Exception | None = None
        self._one_object: Bool[np.ndarray, "N"] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begins to read all rows in the background."""
        threading.Thread(target=self._read, daemon=True, name=f"index of {self.name}").start()

    def wait(self, tell: Callable[[int, int], None] = lambda done, rows: None) -> None:
        """Waits until all rows were read; `tell` is told how many of how many. Raises what has ended the reading."""
        while not self._ended.wait(0.2):
            tell(self.done, len(self.dataset))
        if self._failed is not None:
            raise self._failed

    def select(
        self,
        query: Query,
        decisions: Decisions,
        tell: Callable[[int, int], None] = lambda done, rows: None,
    ) -> Int[np.ndarray, "K"]:
        """Returns the places of the rows that a query shows, in its order; waits for the reading unless it is plain."""
        places = np.arange(len(self.dataset))
        if query.is_plain:
            return places
        self.wait(tell)
        passes = np.ones(len(places), dtype=bool)
        for name in query.filters:
            passes &= self._filter(name, decisions, tell)
        longer = np.maximum(self.chosen_words, self.rejected_words)
        if query.least_words is not None:
            passes &= longer >= query.least_words
        if query.most_words is not None:
            passes &= longer <= query.most_words
        if query.search.strip():
            passes &= self._search(query.search)
        places = places[passes]
        return self._sort(places, query.sort)

    @property
    def has_ended(self) -> bool:
        """Whether all rows were read, or reading has failed."""
        return self._ended.is_set()

    def describe_progress(self) -> str:
        """Returns how far the reading is, and then what was found, in a sentence."""
        rows = len(self.dataset)
        if self._failed is not None:
            return f"The rows could not be read to the end: {self._failed}"
        if not self.has_ended:
            return f"Reading all rows to search and sort them: {self.done:,} of {rows:,} …"
        faults = len(self.faults)
        return f"All {rows:,} rows are read; " + ("none is faulty." if not faults else f"{faults:,} are faulty.")

    def list_orders(self) -> list[str]:
        """Returns what rows can be sorted by."""
        return [IN_ORDER, *_ORDERS, *(f"{way} {name}" for name in self.measures for way in (_HIGHEST, _LOWEST))]

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for index in range(len(self.dataset)):
                self._read_row(index)
                self.done = index + 1
                if index % _BLOCK == 0:
                    time.sleep(_PAUSE)
            self._texts.flush()
        except Exception as error:  # a full disk, a dataset whose file has gone
            self._failed = error
        finally:
            self._ended.set()

    def _read_row(self, index: int) -> None:
        example, facts = look_at(self.dataset, index)
        if facts.fault:
            self.faults[index] = facts.fault
        if example is None:
            self._write_text(index, "")
            return
        self.chosen_words[index], self.rejected_words[index] = facts.chosen_words, facts.rejected_words
        self.images[index], self.changed[index] = facts.images, facts.changed
        for name, measure in self.measures.items():
            self.values[name][index] = measure(example)
        texts = (example.prompt, *(example.responses.get(name, "") for name in (CHOSEN, REJECTED)))
        self._write_text(index, "\x1f".join((example.id, *map(plain_text, texts))))

    def _write_text(self, index: int, text: str) -> None:
        self._starts[index] = self._written
        self._written += self._texts.write(_fold(text) + b"\n")

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _filter(self, name: str, decisions: Decisions, tell: Callable[[int, int], None]) -> Bool[np.ndarray, "N"]:
        rows = len(self.dataset)
        if name in (FLAGGED, DROPPED, UNDECIDED):
            wanted = {FLAGGED: (FLAG,), DROPPED: (DROP,), UNDECIDED: (FLAG, DROP)}[name]
            decided = np.zeros(rows, dtype=bool)
            for (about, row), found in decisions.items():
                if about == self.name and found.decision in wanted and 1 <= row <= rows:
                    decided[row - 1] = True
            return ~decided if name == UNDECIDED else decided
        if name == FAULTY:
            faulty = np.zeros(rows, dtype=bool)
            faulty[list(self.faults)] = True
            return faulty
        if name == ONE_OBJECT:
            return self._find_one_object(tell)
        has_both: Bool[np.ndarray, "N"] = (self.chosen_words > 0) & (self.rejected_words > 0)
        passes: dict[str, Bool[np.ndarray, "N"]] = {
            EQUAL: (self.changed == 0).all(1),
            ONE_WORD: self.changed.max(1) == 1,
            CHOSEN_LONGER: self.chosen_words > self.rejected_words,
            REJECTED_LONGER: self.chosen_words < self.rejected_words,
            WITHOUT_IMAGE: self.images == 0,
        }
        passed: Bool[np.ndarray, "N"] = has_both & passes[name]
        return passed

    def _find_one_object(self, tell: Callable[[int, int], None]) -> Bool[np.ndarray, "N"]:
        """Returns in which rows the answers differ in one object; the texts are read again, once."""
        with self._lock:
            if self._one_object is None:
                rows = len(self.dataset)
                found: Bool[np.ndarray, "N"] = np.zeros(rows, dtype=bool)
                candidates = np.flatnonzero((self.chosen_words > 0) & (self.rejected_words > 0) & self.changed.any(1))
                with _mapped(self._texts) as texts:
                    for index in candidates.tolist():
                        chosen, rejected = self._text_of(texts, index).split("\x1f")[-2:]
                        found[index] = differ_in_one_object(chosen, rejected, self._vocabulary)
                        if index % 1000 == 0:
                            tell(index, rows)
                self._one_object = found
            return self._one_object

    def _text_of(self, texts: mmap.mmap, index: int) -> str:
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self._written
        return texts[self._starts[index] : end - 1].decode("utf-8", "surrogatepass")

    def _search(self, text: str) -> Bool[np.ndarray, "N"]:
        """Returns which rows have a text in them."""
        found, wanted = np.zeros(len(self.dataset), dtype=bool), _fold(text.strip())
        with _mapped(self._texts) as texts:
            place = texts.find(wanted)
            while place >= 0:
                index = int(np.searchsorted(self._starts, place, side="right")) - 1
                found[index] = True
                if index + 1 == len(self._starts):
                    break
                place = texts.find(wanted, int(self._starts[index + 1]))
        return found

    def _sort(self, places: Int[np.ndarray, "K"], order: str) -> Int[np.ndarray, "K"]:
        if order == IN_ORDER:
            return places
        way, _, name = order.partition(" ")
        if name in self.values:
            values = self.values[name][places]
            places, values = places[~np.isnan(values)], values[~np.isnan(values)]
            return places[np.argsort(-values if way == _HIGHEST else values, kind="stable")]
        gap = self.chosen_words - self.rejected_words
        longer = np.maximum(self.chosen_words, self.rejected_words)
        keys = {
            _CHOSEN_MORE: -gap,
            _REJECTED_MORE: gap,
            _LONGEST: -longer,
            _SHORTEST: longer,
            _FEWEST: self.changed.sum(1),
        }
        if order not in keys:
            raise ValueError(f"rows cannot be sorted by {order!r}")
        return places[np.argsort(keys[order][places], kind="stable")]


def _mapped(file: IO[bytes]) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _fold(text: str) -> bytes:
    """Returns a text as it is searched: in one line, upper and lower case being one."""
    return re.sub(r"[^\S\x1f]+", " ", text).casefold().encode("utf-8", "surrogatepass")


def _words(text: str) -> list[str]:
    return text.replace(IMAGE_PLACEHOLDER, " ").split()
