"""What is voted on: the items that two or more evaluated runs have answered, and how each rater sees them.

The order of a rater's items and the side on which an answer stands are functions of (study, rater, item, pair). So they
need not be stored, are the same in every tab and after every restart, and cannot be told from a vote.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from mmdpo.benchmarks.reading import EvaluationError, Row, read_rows
from mmdpo.benchmarks.tasks import load, names
from mmdpo.files import clean_text, digest_of, read_json, replace_surrogates
from mmdpo.report.reading import ANSWERS, RESULT, SCORES, Place, name_results

Choice: TypeAlias = Literal["left", "right", "tie", "both_bad"]
"""What a rater says of two answers."""
CHOICES: tuple[Choice, ...] = get_args(Choice)
LONGEST_NAME = 60
"""Characters of a rater's name."""
_DIGITS = 12
"""Hexadecimal digits of a run's digest that stand for it in the key of a pair."""
_NAMED = 3
"""Items that a message names one by one."""


class VoteError(ValueError):
    """Runs, votes or a file of votes that cannot be used: says which, what is wrong, and how to mend it."""


@dataclass(frozen=True)
class StudyRun:
    """A run that is voted on, and the digest of its answers."""

    label: str
    digest: str


@dataclass(frozen=True)
class StudyItem:
    """An item that all runs have answered; `answers` are digests of the runs' answers, in the order of the runs."""

    id: str
    type: str
    """Type of its question: as the benchmark names it, else its part of the benchmark."""
    image: str
    answers: tuple[str, ...]


class Pair(NamedTuple):
    """Two runs, by their places in the study; the second is held against the first."""

    first: int
    second: int


class Task(NamedTuple):
    """What a rater decides in one vote: an item, and the key of a pair of runs."""

    item: str
    pair: str


@dataclass(frozen=True)
class Study:
    """Runs and items that are voted on, without any text."""

    benchmark: str
    runs: tuple[StudyRun, ...]
    items: tuple[StudyItem, ...]
    notes: tuple[str, ...] = ()
    """What is to be said of items that are left out."""

    @cached_property
    def digest(self) -> str:
        """What tells the study from others: its benchmark and answers, whatever the runs are called."""
        return digest_of([self.benchmark, sorted(run.digest for run in self.runs)])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What the runs are called."""
        return tuple(run.label for run in self.runs)

    @cached_property
    def pairs(self) -> Mapping[str, Pair]:
        """Every two runs, by a key that depends on their answers alone."""
        found = {}
        for first, second in combinations(range(len(self.runs)), 2):
            found["-".join(sorted(self.runs[place].digest[:_DIGITS] for place in (first, second)))] = Pair(
                first, second
            )
        return found

    @cached_property
    def tasks(self) -> frozenset[Task]:
        """All there is to vote on: items by pairs of runs, but where both runs give the same answer."""
        return frozenset(
            Task(item.id, key)
            for key, (first, second) in self.pairs.items()
            for item in self.items
            if item.answers[first] != item.answers[second]
        )

    def order(self, rater: str) -> list[Task]:
        """Returns all tasks in the rater's own order."""
        return sorted(self.tasks, key=lambda task: _draw(self.digest, "order", rater, *task))

    def sides(self, rater: str, task: Task) -> tuple[int, int]:
        """Returns which run's answer a rater sees on the left and which on the right."""
        places = sorted(self.pairs[task.pair], key=lambda place: self.runs[place].digest)
        left, right = places if _draw(self.digest, "side", rater, *task)[0] & 1 else reversed(places)
        return left, right

    def preferred(self, rater: str, task: Task, choice: Choice) -> int | None:
        """Returns the run that a vote is for, None for a tie and both bad."""
        sides = dict(zip(("left", "right"), self.sides(rater, task), strict=True))
        return sides.get(choice)


def _draw(*key: str) -> bytes:
    return hashlib.sha256("\x1f".join(key).encode("utf-8", "surrogatepass")).digest()


def read_rater(name: str) -> str:
    """Returns the name by which a rater is known: upper and lower case, and blanks around it, make no difference.

    Raises VoteError for no name, and one that is too long.
    """
    rater = " ".join(clean_text(unicodedata.normalize("NFC", name)).split()).casefold()
    if not rater:
        raise VoteError("enter your name, or any word that you will remember: your votes are kept under it")
    if len(rater) > LONGEST_NAME:
        raise VoteError(f"the name has {len(rater)} characters; take at most {LONGEST_NAME}")
    return rater


# -- runs read --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemTexts:
    """What a rater reads of an item; `answers` by the digest of the run."""

    prompt: str
    image: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class VotedRuns:
    """Evaluated runs as a study, with what raters are shown."""

    study: Study
    texts: Mapping[str, ItemTexts]


class _Row(NamedTuple):
    prompt: str
    image: str
    answer: str


@dataclass(frozen=True)
class _Answers:
    """The answers of a run, by item."""

    folder: Path
    benchmark: str
    rows: Mapping[str, _Row]


def read_voted_runs(places: Sequence[Place]) -> VotedRuns:
    """Reads the answers of two or more runs: the `evaluations` that `find_folders` finds.

    Items that one of the runs has not answered are left out, and counted in the study's notes.

    Raises VoteError for fewer than two runs, runs on different benchmarks, another prompt or image for an item, no item
    that all runs have answered, and the same answers throughout.
    """
    if len(places) < 2:
        found = ", ".join(str(place.path) for place in places) or "none"
        raise VoteError(f"votes need the results of two runs or more, on the same items; found: {found}")
    runs = [_read_answers(place) for place in places]
    _check_benchmark(runs)
    labels = name_results(places)
    common = [item for item in runs[0].rows if all(item in run.rows for run in runs)]
    if not common:
        raise VoteError(f"no item has an answer in all of {', '.join(labels)}; evaluate the runs on the same items")
    _check_questions(runs, labels, common)
    notes = list(_note_missing(runs, labels, common))
    voted = _keep_distinct(runs, labels, common, notes)
    types = _read_types(runs[0], common)
    items, texts = [], {}
    for item in common:
        asked, said = runs[0].rows[item], {of.digest: run.rows[item].answer for of, run in voted}
        digests = tuple(digest_of(text)[:_DIGITS] for text in said.values())
        items.append(StudyItem(item, types[item], asked.image, digests))
        texts[item] = ItemTexts(asked.prompt, asked.image, said)
    study = Study(runs[0].benchmark, tuple(of for of, _ in voted), tuple(items), tuple(notes))
    return VotedRuns(study, texts)


def _read_answers(place: Place) -> _Answers:
    path, rows = place.path / ANSWERS, dict[str, _Row]()
    try:
        benchmark = str(read_json(place.path / RESULT)["benchmark"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VoteError(
            f"{place.path / RESULT}: cannot be read ({error}); finish or repeat its `mmdpo eval`"
        ) from error
    try:
        for row in read_rows(path):
            item = _text(row, "id")
            if item in rows:
                raise VoteError(f"{row.place}: a second answer to item {item}; remove one")
            rows[item] = _Row(*(_text(row, key) for key in _Row._fields))
    except OSError as error:
        raise VoteError(f"{path}: cannot be read ({error.strerror}); votes need the answers of the run") from error
    except EvaluationError as error:
        raise VoteError(str(error)) from error
    return _Answers(place.path, benchmark, rows)


def _text(row: Row, key: str) -> str:
    value = row.values.get(key)
    if not isinstance(value, str):
        raise VoteError(
            f"{row.place}: {key} should be text, and is {value!r:.40}; score the answers again, into another folder"
        )
    return replace_surrogates(value)


def _check_benchmark(runs: Sequence[_Answers]) -> None:
    by_benchmark: dict[str, list[str]] = {}
    for run in runs:
        by_benchmark.setdefault(run.benchmark, []).append(str(run.folder))
    if len(by_benchmark) > 1:
        found = "; ".join(f"{benchmark}: {', '.join(folders)}" for benchmark, folders in by_benchmark.items())
        raise VoteError(f"votes are about one benchmark; name only the folders of one of these: {found}")


def _check_questions(runs: Sequence[_Answers], labels: Sequence[str], common: Sequence[str]) -> None:
    first = runs[0].rows
    for label, run in zip(labels[1:], runs[1:], strict=True):
        for kind in ("prompt", "image"):
            other = [item for item in common if getattr(run.rows[item], kind) != getattr(first[item], kind)]
            if other:
                asked = [f"{getattr(rows[other[0]], kind)!r:.60}" for rows in (run.rows, first)]
                raise VoteError(
                    f"{label} has another {kind} than {labels[0]} for {len(other):,} items, the first is {other[0]}: "
                    f"{asked[0]}, not {asked[1]}; their answers cannot be held against each other"
                )


def _keep_distinct(
    runs: Sequence[_Answers], labels: Sequence[str], common: Sequence[str], notes: list[str]
) -> list[tuple[StudyRun, _Answers]]:
    """Returns the runs without those that answer as an earlier one does throughout, which `notes` name."""
    voted: dict[str, tuple[StudyRun, _Answers]] = {}
    for label, run in zip(labels, runs, strict=True):
        digest = digest_of([[item, *run.rows[item]] for item in sorted(common)])
        if digest in voted:
            notes.append(f"{label} gives the same answers as {voted[digest][0].label} to all items, and is left out")
        else:
            voted[digest] = StudyRun(label, digest), run
    if len(voted) < 2:
        raise VoteError(f"{', '.join(labels)} give the same answers to all items: nothing to vote on")
    return list(voted.values())


def _note_missing(runs: Sequence[_Answers], labels: Sequence[str], common: Sequence[str]) -> Iterator[str]:
    kept, known = frozenset(common), dict.fromkeys(item for run in runs for item in run.rows)
    for label, run in zip(labels, runs, strict=True):
        missing = [item for item in known if item not in run.rows]
        if missing:
            named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
            yield f"{len(missing):,} items have no answer in {label}: {named}"
    if len(kept) < len(known):
        yield f"{len(kept):,} of {len(known):,} items have an answer in all runs, and are voted on"


def _read_types(run: _Answers, items: Sequence[str]) -> dict[str, str]:
    """Returns the question type of each item; what is not known is the benchmark's name."""
    kinds = load(run.benchmark).question_types if run.benchmark in names() else ()
    found = dict.fromkeys(items, run.benchmark)
    try:
        for row in read_rows(run.folder / SCORES):
            item, part, counts = (row.values.get(key) for key in ("id", "part", "counts"))
            if item in found and isinstance(part, str) and isinstance(counts, dict):
                named = next((kind for kind in kinds if counts.get(f"{kind}/n")), part)
                found[str(item)] = run.benchmark if named == "all" else named
    except (OSError, EvaluationError):
        pass  # a run without scores has answers that can be voted on
    return found
