"""Votes as CSV: a store's votes out, and into another store of the same study, exactly.

`left`, `right`, `preferred`, `type` and `benchmark` are for readers; the other columns are read again. An apostrophe
stands before a text that a spreadsheet would run as a formula, and before one that begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from mmdpo.files import UnusableFileError, read_text, write_whole
from mmdpo.tables import csv_text
from mmdpo.votes.store import Merged, Vote, Votes, VoteStore, read_reason
from mmdpo.votes.study import Choice, Study, VoteError, read_rater

COLUMNS = (
    *("study", "benchmark", "rater", "item", "type", "pair", "left", "right", "vote", "preferred", "reason"),
    *("time", "status"),
)
_READ = ("study", "rater", "item", "pair", "vote", "reason", "time", "status")
COUNTS, REPLACED = "counts", "replaced"


def export_votes(store: VoteStore, path: Path) -> Votes:
    """Writes all votes of a store, those that their raters have changed too, and returns them."""
    votes, study = store.votes(), store.study
    types = {item.id: item.type for item in study.items}
    marked = [(vote, COUNTS) for vote in votes.counting] + [(vote, REPLACED) for vote in votes.replaced]
    rows = (_as_row(study, types[vote.item], vote, status) for vote, status in sorted(marked))
    write_whole(
        path,
        csv_text(COLUMNS, ([f"'{row[of]}" if row[of].startswith("'") else row[of] for of in COLUMNS] for row in rows)),
    )
    return votes


def import_votes(store: VoteStore, path: Path) -> Merged:
    """Puts the votes of a CSV file into a store, all or none.

    Raises VoteError, with the line, for a file that `export_votes` did not write, or one of another study.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise VoteError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnusableFileError, UnicodeDecodeError) as error:
        raise VoteError(f"{path}: {error}; name a file that `mmdpo votes export` wrote") from error
    found: dict[str, list[Vote]] = {COUNTS: [], REPLACED: []}
    seen: dict[tuple[str, str, str], str] = {}
    for place, row in _read_rows(path, text.removeprefix("\ufeff")):
        vote = _read_vote(place, row, store.study)
        if row["status"] == COUNTS:
            first = seen.setdefault((vote.rater, *vote.task), place)
            if first != place:
                raise VoteError(f"{place}: a second vote of {vote.rater} on this item and pair; the first: {first}")
        found[row["status"]].append(vote)
    return store.merge(Votes(tuple(found[COUNTS]), tuple(found[REPLACED])))


def _as_row(study: Study, kind: str, vote: Vote, status: str) -> dict[str, str]:
    left, right = study.sides(vote.rater, vote.task)
    preferred = study.preferred(vote.rater, vote.task, vote.choice)
    return {
        "study": study.digest,
        "benchmark": study.benchmark,
        "rater": vote.rater,
        "item": vote.item,
        "type": kind,
        "pair": vote.pair,
        "left": study.labels[left],
        "right": study.labels[right],
        "vote": vote.choice,
        "preferred": "" if preferred is None else study.labels[preferred],
        "reason": vote.reason,
        "time": vote.time,
        "status": status,
    }


def _read_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each row, by column, after the file and line where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"{path}, line {line}", reader.line_num + 1
            if header is None:
                header = cells
                missing = [column for column in _READ if column not in header]
                if missing:
                    raise VoteError(
                        f"{place}: no column {', '.join(missing)}; a file that `mmdpo votes export` wrote has"
                    )
            elif len(cells) != len(header):
                raise VoteError(f"{place}: {len(cells)} cells, and the header has {len(header)}")
            else:
                yield place, {column: cell.removeprefix("'") for column, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise VoteError(f"{path}, line {line}: no CSV ({error})") from error
    if header is None:
        raise VoteError(f"{path}: empty; name a file that `mmdpo votes export` wrote")


def _read_vote(place: str, row: dict[str, str], study: Study) -> Vote:
    if row["study"] != study.digest:
        raise VoteError(f"{place}: a vote of another study, on other runs or answers; import it into that study's file")
    choice: Any = row["vote"]
    try:
        if choice not in get_args(Choice):
            raise ValueError(f"vote is {choice!r}, and not one of {', '.join(get_args(Choice))}")
        if row["status"] not in (COUNTS, REPLACED):
            raise ValueError(f"status is {row['status']!r}, and not {COUNTS} or {REPLACED}")
        if read_rater(row["rater"]) != row["rater"]:
            raise ValueError(f"rater is {row['rater']!r}; as a name it is {read_rater(row['rater'])!r}")
        if read_reason(row["reason"]) != row["reason"]:
            raise ValueError("the reason holds blanks around it, or what cannot be shown")
        time = datetime.fromisoformat(row["time"])
        if time.isoformat(timespec="microseconds") != row["time"] or str(time.tzinfo) != "UTC":
            raise ValueError(f"time is {row['time']!r}, and not like 2026-01-31T12:00:00.000000+00:00")
    except ValueError as error:
        raise VoteError(f"{place}: {error}") from error
    vote = Vote(row["rater"], row["item"], row["pair"], choice, row["reason"], row["time"])
    if vote.task not in study.tasks:
        raise VoteError(f"{place}: item {vote.item!r} with pair {vote.pair!r} is not voted on in this study")
    return vote
