"""Decisions about rows of datasets, with reasons: a file that the app appends to, and training and checks honour.

    {"dataset": "pairs.jsonl", "row": 12, "content": "5f0c…", "decision": "drop", "reason": "no cup", "time": "…"}

Of two lines about one row the later holds. `drop` leaves the row out, `flag` only marks it, `keep` withdraws what was
decided before. `dataset` is the last part of the dataset's name, so that folders may move; `content` is a digest of
prompt, answers and images, so that a row which has changed since, or stands elsewhere now, is noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import digest_image
from mmdpo.files import check_regular, digest_of, parse_json, printable
from mmdpo.line_file import LineFile, mend_last_line
from mmdpo.records import CHOSEN, REJECTED, ImageSource, RowError

logger = logging.getLogger(__name__)

DROP, FLAG, KEEP = "drop", "flag", "keep"


class DecisionError(ValueError):
    """A decision that cannot be followed: says file, line and row, and how to mend it."""


@dataclass(frozen=True)
class Decision:
    """What was decided about a row."""

    dataset: str
    row: int
    """From 1."""
    content: str
    decision: str
    reason: str = ""
    line: int = 0
    """Where it stands in its file, from 1."""


Decisions = Mapping[tuple[str, int], Decision]
"""What holds of each row, by dataset and row."""


def name_dataset(dataset: PreferenceDataset) -> str:
    """Returns what decisions call a dataset: the last part of its name, as `pairs.jsonl` or `folder[train]`."""
    return PurePath(dataset.name).name or dataset.name


def digest_row(dataset: PreferenceDataset, index: int) -> str:
    """Returns the digest of a row's prompt, chosen and rejected answer, and images: names of files, content of others.

    Of a row that cannot be read it is that of all that stands in it.
    """
    try:
        example = dataset[index]
        said: Any = [
            example.prompt,
            [example.responses.get(name) for name in (CHOSEN, REJECTED)],
            [_name_image(image) for image in (*example.images, *example.rejected_images)],
        ]
    except RowError:
        row = dataset.raw(index)
        said = {str(key): value for key, value in row.items()} if isinstance(row, Mapping) else row
    return digest_of(said)[:32]


def read_decisions(path: Path) -> dict[tuple[str, int], Decision]:
    """Returns what holds of each row. A last line that is only half written is left out, with a warning.

    Raises FileNotFoundError where there is no file, and DecisionError, which names the line, for a damaged one.
    """
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file of decisions; `mmdpo app` writes one") from error
    found = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            decision = _read_line(line, number)
        except ValueError as error:
            if number == len(lines):
                logger.warning("%s: the last line is only half written, and is left out", path)
                break
            raise DecisionError(f"{path}, line {number}: {error}; mend or remove the line") from error
        found[decision.dataset, decision.row] = decision
    return found


def leave_out_dropped(dataset: PreferenceDataset, path: Path, *, is_needed: bool = False) -> PreferenceDataset:
    """Returns a dataset without the rows that a file of decisions drops, and logs how many.

    With `is_needed` at least one decision has to be about this dataset, unless the file is empty. Raises DecisionError
    where none is, or where a row that is flagged or dropped is no longer what it was, and as `read_decisions`.
    """
    decisions, name = read_decisions(path), name_dataset(dataset)
    own = {row: decision for (about, row), decision in decisions.items() if about == name}
    if decisions and not own and is_needed:
        others = ", ".join(sorted({about for about, _ in decisions}))
        raise DecisionError(
            printable(f"{path}: no decision is about {name}, they are about {others}: give the file of this dataset")
        )
    whole = dataset.whole()
    for row, decision in own.items():
        if decision.decision != KEEP:
            _check_match(whole, row, decision, path)
    dropped = {row for row, decision in own.items() if decision.decision == DROP}
    left = [index for index in range(len(dataset)) if dataset.row_of(index) not in dropped]
    flagged = sum(decision.decision == FLAG for decision in own.values())
    if len(left) < len(dataset):
        told = f"; {flagged} flagged ones are kept" if flagged else ""
        logger.info("%s: %d of %d rows are dropped by %s%s", name, len(dataset) - len(left), len(dataset), path, told)
    if not left:
        raise DecisionError(f"{path} drops every row of {printable(name)}")
    return dataset.select(left)


class DecisionFile:
    """The file as the app reads and appends to it; several processes may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, int], Decision] = {}
        self._seen: tuple[int, int] | None = None
        if path.exists():
            mend_last_line(path)

    def read(self) -> Decisions:
        """Returns what holds of each row now; raises as `read_decisions`, but for a file that is not there yet."""
        if not self.path.exists():
            return {}
        found = self.path.stat()
        if self._seen != (found.st_size, found.st_mtime_ns):
            self._known, self._seen = read_decisions(self.path), (found.st_size, found.st_mtime_ns)
        return self._known

    def decide(self, dataset: PreferenceDataset, index: int, decision: str, reason: str) -> None:
        """Appends a decision; raises UnusableFileError where the file cannot be written."""
        file = LineFile(self.path)  # opened for each: somebody may have moved the file away
        file.append(
            {
                "dataset": name_dataset(dataset),
                "row": dataset.row_of(index),
                "content": digest_row(dataset, index),
                "decision": decision,
                "reason": reason,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        file.close()


def _read_line(line: bytes, number: int) -> Decision:
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is {type(row).__name__} and no object")
    for name, kind in (("dataset", str), ("row", int), ("content", str), ("decision", str)):
        if type(row.get(name)) is not kind:
            raise ValueError(f"`{name}` is {row.get(name)!r:.40}, which is no {'text' if kind is str else 'number'}")
    if row["decision"] not in (DROP, FLAG, KEEP):
        raise ValueError(f"`decision` is {row['decision']!r:.40}: write {DROP}, {FLAG} or {KEEP}")
    reason = str(row.get("reason") or "")
    return Decision(row["dataset"], row["row"], row["content"], row["decision"], reason, number)


def _check_match(whole: PreferenceDataset, row: int, decision: Decision, path: Path) -> None:
    where = f"{path}, line {decision.line}: row {row} of {decision.dataset}"
    if not 1 <= row <= len(whole):
        raise DecisionError(printable(f"{where}: the dataset has {len(whole)} rows; remove the line"))
    if digest_row(whole, row - 1) != decision.content:
        raise DecisionError(
            printable(
                f"{where} is no longer what was decided about, its prompt, an answer or an image is another one: look "
                "at it in `mmdpo app` and decide again, or remove the line"
            )
        )


def _name_image(image: ImageSource) -> str:
    return PurePath(image).name if isinstance(image, str | Path) else digest_image(image)
