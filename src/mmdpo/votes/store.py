"""The votes of a study in one SQLite file: every vote is on the disk before the next item is shown.

    study     key, value      the version of this layout, the benchmark, notes on what was left out (as JSON)
    runs      place, label, digest
    items     item, type, image, answers (digests, as JSON)
    votes     rater, item, pair, choice, reason, time        one for each rater, item and pair
    replaced  the same        votes that their rater has changed since

Which answer stood on which side is not stored: `Study.sides` says it again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mmdpo.files import clean_text
from mmdpo.folders import make_folder
from mmdpo.votes.study import CHOICES, Choice, Study, StudyItem, StudyRun, Task, VoteError

VERSION = 1
LONGEST_REASON = 2000
"""Characters of a reason that are kept."""
_WAIT = 30.0
"""Seconds that a writer waits for another one."""
_COLUMNS = "rater, item, pair, choice, reason, time"
_TABLES = f"""
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (place INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE, digest TEXT NOT NULL UNIQUE);
CREATE TABLE items (item TEXT PRIMARY KEY, type TEXT NOT NULL, image TEXT NOT NULL, answers TEXT NOT NULL);
CREATE TABLE votes (
    rater TEXT NOT NULL, item TEXT NOT NULL REFERENCES items, pair TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ({", ".join(f"'{choice}'" for choice in CHOICES)})),
    reason TEXT NOT NULL, time TEXT NOT NULL, UNIQUE (rater, item, pair)
);
CREATE TABLE replaced (
    rater TEXT NOT NULL, item TEXT NOT NULL, pair TEXT NOT NULL, choice TEXT NOT NULL, reason TEXT NOT NULL,
    time TEXT NOT NULL, UNIQUE ({_COLUMNS})
);
"""


@dataclass(frozen=True, order=True)
class Vote:
    """What a rater said of an item and a pair of runs; `time` is UTC, as ISO 8601 with microseconds."""

    rater: str
    item: str
    pair: str
    choice: Choice
    reason: str
    time: str

    @property
    def task(self) -> Task:
        """What the vote decides."""
        return Task(self.item, self.pair)


@dataclass(frozen=True)
class Votes:
    """All votes of a store: those that count, and those that their raters have changed; both sorted."""

    counting: tuple[Vote, ...]
    replaced: tuple[Vote, ...]


@dataclass(frozen=True)
class Merged:
    """What became of votes from elsewhere."""

    added: int = 0
    known: int = 0
    replaced: int = 0
    """Votes of the store that gave way to later ones of the same rater."""
    outdated: int = 0
    """Votes from elsewhere, not known yet, that had been replaced there or are older than the store's."""


Outcome = Literal["counted", "known", "refused"]


class VoteStore:
    """A file of votes on one study. Threads and processes may use it together; nothing is held open in between."""

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        self.order = lru_cache(maxsize=64)(study.order)
        """A rater's tasks, in the rater's own order."""

    @classmethod
    def read(cls, path: str | Path) -> VoteStore:
        """Opens a file that exists; raises VoteError for none, and for one that is no file of votes."""
        path = Path(path)
        if not path.is_file():
            raise VoteError(f"{path}: no such file of votes; `mmdpo app --votes {path}` makes one")
        with _connect(path) as connection:
            return cls(path, _read_study(path, connection))

    @classmethod
    def open(cls, path: str | Path, study: Study) -> VoteStore:
        """Opens a file of votes on a study, and makes it unless it is there.

        Raises VoteError for a file that was made for other runs, saying which.
        """
        path = Path(path)
        make_folder(path.parent)
        with _connect(path) as connection, _writing(connection):
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                _write_study(connection, study)
        store = cls.read(path)
        if store.study.digest != study.digest:
            raise VoteError(f"{path}: {_explain_difference(store.study, study)}")
        return store

    def cast(self, rater: str, task: Task, choice: Choice, reason: str = "") -> Outcome:
        """Commits a vote. The same vote again changes nothing, and another one on the same task is refused.

        Raises VoteError for a task that is not of this study, and where the file takes nothing more.
        """
        vote = self._make_vote(rater, task, choice, reason)
        with _connect(self.path) as connection, _writing(connection):
            before = _find(connection, rater, task)
            if before is None:
                _insert(connection, "votes", vote)
                return "counted"
            return "known" if before.choice == choice and vote.reason in ("", before.reason) else "refused"

    def change(self, seen: Vote, choice: Choice, reason: str = "") -> Outcome:
        """Commits another vote in the place of one that its rater has seen again, which is kept as replaced.

        It is refused where the vote has been changed since, as in another tab. Raises as `cast` does.
        """
        vote = self._make_vote(seen.rater, seen.task, choice, reason)
        with _connect(self.path) as connection, _writing(connection):
            before = _find(connection, seen.rater, seen.task)
            if before is not None and (before.choice, before.reason) == (choice, vote.reason):
                return "known"
            if before != seen:
                return "refused"
            _replace(connection, seen, replace(vote, time=max(vote.time, _just_after(seen.time))))
            return "counted"

    def next_task(self, rater: str) -> Task | None:
        """Returns the first task in the rater's order without a vote, None where all have one."""
        voted = {vote.task for vote in self.votes_of(rater)}
        return next((task for task in self.order(rater) if task not in voted), None)

    def votes_of(self, rater: str) -> list[Vote]:
        """Returns a rater's votes that count, the latest last."""
        with _connect(self.path) as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM votes WHERE rater = ? ORDER BY time, rowid", (rater,))
            return [Vote(*row) for row in rows]

    def votes(self) -> Votes:
        """Returns all votes, as they stand at one moment."""
        with _connect(self.path) as connection:
            connection.execute("BEGIN")
            found = [
                tuple(sorted(Vote(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM {table}")))
                for table in ("votes", "replaced")
            ]
            return Votes(*found)

    def merge(self, votes: Votes) -> Merged:
        """Commits votes from elsewhere, all or none; of two votes of a rater on one task, the later one counts.

        Votes that the store knows change nothing, so merging twice is merging once. Raises as `cast` does.
        """
        for vote in (*votes.counting, *votes.replaced):
            self._check(vote.task)
        counts = dict.fromkeys(Merged.__annotations__, 0)
        with _connect(self.path) as connection, _writing(connection):
            for vote in votes.counting:
                counts[_merge_counting(connection, vote)] += 1
            for vote in votes.replaced:
                counts[_merge_replaced(connection, vote)] += 1
        return Merged(**counts)

    def _make_vote(self, rater: str, task: Task, choice: Choice, reason: str) -> Vote:
        self._check(task)
        if choice not in CHOICES:
            raise VoteError(f"a vote is one of {', '.join(CHOICES)}; got {choice!r}")
        return Vote(rater, task.item, task.pair, choice, read_reason(reason), _write_time(datetime.now(UTC)))

    def _check(self, task: Task) -> None:
        if task not in self.study.tasks:
            raise VoteError(f"item {task.item!r} with pair {task.pair!r} is nothing that {self.path} holds votes on")


def read_reason(text: str) -> str:
    """Returns a reason as it is kept: without what cannot be shown; raises VoteError for one that is too long."""
    reason = clean_text(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if len(reason) > LONGEST_REASON:
        raise VoteError(f"the reason has {len(reason):,} characters; shorten it to {LONGEST_REASON:,}")
    return reason


# -- the file ---------------------------------------------------------------------------------------------------------


@contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Gives a connection whose commits are on the disk when they return; what SQLite raises becomes a VoteError."""
    try:
        connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise VoteError(f"{path}: {error}; nothing was changed. {_how_to_mend(error)}") from error


def _how_to_mend(error: sqlite3.Error) -> str:
    if "not a database" in str(error):
        return "Name a file that `mmdpo app --votes` made, or one that does not exist yet"
    if "locked" in str(error):
        return "Another process is writing to it; try again"
    return "Make room on the disk, check the rights of the file and its folder, then try again"


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Makes one transaction of what is inside, alone from its beginning; it is undone with an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _write_study(connection: sqlite3.Connection, study: Study) -> None:
    for statement in filter(str.strip, _TABLES.split(";")):  # executescript would commit in between
        connection.execute(statement)
    about = {"version": str(VERSION), "benchmark": study.benchmark, "notes": json.dumps(study.notes)}
    connection.executemany("INSERT INTO study VALUES (?, ?)", about.items())
    runs = ((place, run.label, run.digest) for place, run in enumerate(study.runs))
    connection.executemany("INSERT INTO runs VALUES (?, ?, ?)", runs)
    items = ((item.id, item.type, item.image, json.dumps(item.answers)) for item in study.items)
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", items)


def _read_study(path: Path, connection: sqlite3.Connection) -> Study:
    is_ours = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone()
    about = dict(connection.execute("SELECT key, value FROM study")) if is_ours else {}
    if about.get("version") != str(VERSION):
        raise VoteError(f"{path}: no file of votes that this version of mmdpo reads; name another file")
    runs = connection.execute("SELECT label, digest FROM runs ORDER BY place")
    items = connection.execute("SELECT item, type, image, answers FROM items ORDER BY rowid")
    return Study(
        about["benchmark"],
        tuple(StudyRun(*row) for row in runs),
        tuple(StudyItem(item, kind, image, tuple(json.loads(answers))) for item, kind, image, answers in items),
        tuple(json.loads(about["notes"])),
    )


def _explain_difference(kept: Study, given: Study) -> str:
    """Says how the runs that are given differ from those that a store was made for."""
    known, now = ({run.digest: run.label for run in study.runs} for study in (kept, given))
    changed = [label for digest, label in known.items() if digest not in now and label in now.values()]
    gone = [label for digest, label in known.items() if digest not in now and label not in now.values()]
    new = [label for digest, label in now.items() if digest not in known and label not in known.values()]
    parts = [
        f"the answers of {', '.join(changed)} are other ones, or to other items, than then" if changed else "",
        f"{', '.join(gone)} is not among the runs" if gone else "",
        f"{', '.join(new)} was not there" if new else "",
        f"the benchmark was {kept.benchmark}" if kept.benchmark != given.benchmark else "",
    ]
    return (
        f"was made for votes on {', '.join(kept.labels)} ({len(kept.items):,} items): {'; '.join(filter(None, parts))}."
        " Name those runs, or another file of votes"
    )


def _find(connection: sqlite3.Connection, rater: str, task: Task) -> Vote | None:
    query = f"SELECT {_COLUMNS} FROM votes WHERE rater = ? AND item = ? AND pair = ?"
    row = connection.execute(query, (rater, *task)).fetchone()
    return None if row is None else Vote(*row)


def _insert(connection: sqlite3.Connection, table: Literal["votes", "replaced"], vote: Vote) -> bool:
    """Returns whether a row was added: a vote that was replaced is kept once."""
    either = "" if table == "votes" else "OR IGNORE "
    marks = ", ".join("?" * len(_COLUMNS.split(", ")))
    done = connection.execute(f"INSERT {either}INTO {table} ({_COLUMNS}) VALUES ({marks})", astuple(vote))
    return done.rowcount > 0


def _replace(connection: sqlite3.Connection, old: Vote, new: Vote) -> None:
    _insert(connection, "replaced", old)
    connection.execute("DELETE FROM votes WHERE rater = ? AND item = ? AND pair = ?", (old.rater, *old.task))
    _insert(connection, "votes", new)


def _merge_counting(connection: sqlite3.Connection, vote: Vote) -> str:
    before = _find(connection, vote.rater, vote.task)
    if before is None:
        _insert(connection, "votes", vote)
        return "added"
    if before == vote:
        return "known"
    if (vote.time, vote.choice, vote.reason) > (before.time, before.choice, before.reason):
        _replace(connection, before, vote)
        return "replaced"
    return "outdated" if _insert(connection, "replaced", vote) else "known"


def _merge_replaced(connection: sqlite3.Connection, vote: Vote) -> str:
    """Keeps a vote that was replaced elsewhere; by then the one that replaced it is there."""
    before = _find(connection, vote.rater, vote.task)
    if before is None:
        raise VoteError(f"{vote.rater}'s vote on {vote.item} was replaced, and what replaced it is missing")
    return "outdated" if before != vote and _insert(connection, "replaced", vote) else "known"


def _write_time(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _just_after(time: str) -> str:
    return _write_time(datetime.fromisoformat(time) + timedelta(microseconds=1))
