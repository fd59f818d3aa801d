"""What is known of every row of a dataset, so that 100,000 of them can be searched, filtered and sorted.

Each row is read once, in the background, and none of its images is opened. What is known of it stands in a table of
SQLite, whose file the system keeps in memory while there is room.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from jaxtyping import Int

from mmdpo.benchmarks.linguistics import TableLinguistics
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import DROP, FLAG, Decisions, name_dataset
from mmdpo.data.faults import as_fault
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.data.validate import validate_example
from mmdpo.pairs.judges import find_objects
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

FAULTY, FLAGGED, DROPPED, UNDECIDED, ONE_OBJECT = "faulty", "flagged", "dropped", "not decided", "one object differs"
_TABLE = """CREATE TABLE rows (
    place INTEGER PRIMARY KEY, chosen INTEGER, rejected INTEGER, images INTEGER, changed_chosen INTEGER,
    changed_rejected INTEGER, is_faulty INTEGER, text BLOB, one_object INTEGER
)"""
"""`chosen`, `rejected` and what is changed of them in words; `text` as it is searched."""
_HAS_BOTH = "chosen > 0 AND rejected > 0"
_FLAGGED, _DROPPED = (f"place IN (SELECT value FROM json_each(:{decision}))" for decision in (FLAG, DROP))
FILTERS = {
    FAULTY: "is_faulty",
    FLAGGED: _FLAGGED,
    DROPPED: _DROPPED,
    UNDECIDED: f"NOT {_FLAGGED} AND NOT {_DROPPED}",
    "equal answers": f"{_HAS_BOTH} AND max(changed_chosen, changed_rejected) = 0",
    "one word differs": f"{_HAS_BOTH} AND max(changed_chosen, changed_rejected) = 1",
    ONE_OBJECT: "one_object",
    "chosen is longer": f"{_HAS_BOTH} AND chosen > rejected",
    "rejected is longer": f"{_HAS_BOTH} AND chosen < rejected",
    "without an image": f"{_HAS_BOTH} AND images = 0",
}
"""What may be asked of rows, and how the table is."""
IN_ORDER = "as in the file"
_ORDERS = {
    IN_ORDER: "place",
    "chosen longer, by most words": "rejected - chosen",
    "rejected longer, by most words": "chosen - rejected",
    "longest": "-max(chosen, rejected)",
    "shortest": "max(chosen, rejected)",
    "fewest changed words": "changed_chosen + changed_rejected",
}
_PAUSE = 0.001
"""Seconds that the reading thread leaves to others after each block of rows."""
_BLOCK = 50
_LINGUISTICS = TableLinguistics()
Tell = Callable[[int, int], None]
"""Receives how many of how many rows were looked at."""


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
    """A dataset's rows in a table. `start` begins reading; what needs all rows waits for it."""

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
        self.faults: dict[int, str] = {}
        self.done = 0
        """Rows that were read."""
        self._ended = threading.Event()
        self._failed: Exception | None = None
        self._lock = threading.Lock()
        self._table = sqlite3.connect("", check_same_thread=False)  # a file of its own, which goes with the index
        self._table.execute(_TABLE)
        self._orders = dict(_ORDERS)
        for number, name in enumerate(self.measures):
            self._table.execute(f"ALTER TABLE rows ADD COLUMN measure_{number} REAL")
            self._orders |= {f"highest {name}": f"-measure_{number}", f"lowest {name}": f"measure_{number}"}

    def start(self) -> None:
        """Begins to read all rows in the background."""
        threading.Thread(target=self._read, daemon=True, name=f"index of {self.name}").start()

    def wait(self, tell: Tell = lambda done, rows: None) -> None:
        """Waits until all rows were read; `tell` is told how many of how many. Raises what has ended the reading."""
        while not self._ended.wait(0.2):
            tell(self.done, len(self.dataset))
        if self._failed is not None:
            raise self._failed

    def select(self, query: Query, decisions: Decisions, tell: Tell = lambda done, rows: None) -> Int[np.ndarray, "K"]:
        """Returns the places of the rows that a query shows, in its order; waits for the reading unless it is plain."""
        if query.is_plain:
            return np.arange(len(self.dataset))
        if query.sort not in self._orders:
            raise ValueError(f"rows cannot be sorted by {query.sort!r}")
        self.wait(tell)
        order = self._orders[query.sort]
        conditions = [f"{order} IS NOT NULL", *(f"({FILTERS[name]})" for name in query.filters)]
        if query.least_words is not None:
            conditions.append("max(chosen, rejected) >= :least")
        if query.most_words is not None:
            conditions.append("max(chosen, rejected) <= :most")
        if query.search.strip():
            conditions.append("instr(text, :search)")
        values: dict[str, Any] = {
            "least": query.least_words,
            "most": query.most_words,
            "search": _fold(query.search.strip()),
        }
        for name in (FLAG, DROP):
            rows = (row for (about, row), of in decisions.items() if about == self.name and of.decision == name)
            values[name] = json.dumps([row - 1 for row in rows])
        with self._lock:
            if ONE_OBJECT in query.filters:
                self._find_one_object(tell)
            wanted = f"SELECT place FROM rows WHERE {' AND '.join(conditions)} ORDER BY {order}, place"
            found = self._table.execute(wanted, values)
            return np.array([place for (place,) in found], dtype=np.int64)

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
        found = "no text is faulty" if not faults else f"{faults:,} have a faulty text or column"
        return f"All {rows:,} rows are read; {found}. A picture is tried when its row is shown."

    def list_orders(self) -> list[str]:
        """Returns what rows can be sorted by."""
        return list(self._orders)

    def _read(self) -> None:
        try:
            for index in range(len(self.dataset)):
                row = self._read_row(index)
                with self._lock:
                    self._table.execute(f"INSERT INTO rows VALUES ({', '.join('?' * len(row))})", row)
                self.done = index + 1
                if index % _BLOCK == 0:
                    time.sleep(_PAUSE)
        except Exception as error:  # a full disk, a dataset whose file has gone
            self._failed = error
        finally:
            self._ended.set()

    def _read_row(self, index: int) -> tuple[Any, ...]:
        """Returns what the table holds of a row."""
        example, facts = look_at(self.dataset, index)
        if facts.fault:
            self.faults[index] = facts.fault
        measured = [nan if example is None else measure(example) for measure in self.measures.values()]
        texts = [] if example is None else [example.prompt, *(example.responses.get(n, "") for n in (CHOSEN, REJECTED))]
        text = _fold("\x1f".join(["" if example is None else example.id, *map(plain_text, texts)]))
        counts = (facts.chosen_words, facts.rejected_words, facts.images, *facts.changed)
        return (index, *counts, bool(facts.fault), text, None, *measured)  # SQLite makes NULL of NaN

    def _find_one_object(self, tell: Tell) -> None:
        """Finds in which rows the answers differ in one object; the texts are read again, once."""
        seen = itertools.count(1)

        def is_so(text: bytes) -> bool:
            if (number := next(seen)) % 1000 == 0:
                tell(number, len(self.dataset))
            chosen, rejected = text.decode("utf-8", "surrogatepass").split("\x1f")[-2:]
            return differ_in_one_object(chosen, rejected, self._vocabulary)

        self._table.create_function("is_so", 1, is_so)
        differing = f"one_object IS NULL AND {_HAS_BOTH} AND changed_chosen + changed_rejected > 0"
        self._table.execute(f"UPDATE rows SET one_object = is_so(text) WHERE {differing}")


def _fold(text: str) -> bytes:
    """Returns a text as it is searched: in one line, upper and lower case being one."""
    return re.sub(r"[^\S\x1f]+", " ", text).casefold().encode("utf-8", "surrogatepass")


def _words(text: str) -> list[str]:
    return text.replace(IMAGE_PLACEHOLDER, " ").split()
