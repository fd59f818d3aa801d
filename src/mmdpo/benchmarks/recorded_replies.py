"""Recorded replies of a judge, in a file of rows:

our replies        {"id": …, "reply": …}; with "answer", the reply is used for that answer alone; with "attempt", it
                   is one of several to the same answer, and the first that is "readable" counts, else the last
official replies   an array of chat completions, `choices[0].message.content`, in the order of the items
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmdpo.benchmarks.definitions import BenchmarkItem
from mmdpo.benchmarks.reading import EvaluationError, Row, read_rows
from mmdpo.benchmarks.tolerant import take_off_thoughts
from mmdpo.files import replace_surrogates


class RecordedReplies:
    """A judge that only repeats what was recorded; an item without a record has no reply."""

    def __init__(self, rows: Mapping[str, Sequence[Row]], name: str) -> None:
        self._rows, self.name = rows, name

    @classmethod
    def read(
        cls, path: str | Path, item_ids: Sequence[str], reads: Callable[[str], bool] | None = None
    ) -> RecordedReplies:
        """Reads a file of replies to these items, in their official order.

        Raises EvaluationError with file and line for a row that is no reply, an id that is no item's, two replies to
        one item, or replies of another judge than the rows before; and where `reads` can read none of them.
        """
        known, rows = frozenset(item_ids), dict[str, list[Row]]()
        models: dict[str, Row] = {}
        for row in read_rows(Path(path)):
            item_id = _find_replied(row, item_ids)
            if item_id not in known:
                raise EvaluationError(f"{row.place}: id {item_id!r} is none of the {len(item_ids)} items")
            others = rows.setdefault(item_id, [])
            same = next((other for other in others if _is_same_try(row, other)), None)
            if same is not None:
                raise EvaluationError(f"{row.place}: a second reply to item {item_id}; the first is at {same.place}")
            if not isinstance(row.values.get("attempt", 0), int):
                raise EvaluationError(f"{row.place}: its attempt should be a whole number from 0")
            _find_reply(row)
            others.append(row)
            _check_judge(row, models)
        replies = [take_off_thoughts(_find_reply(row)) for others in rows.values() for row in others]
        if reads is not None and replies and not any(map(reads, replies)):
            raise EvaluationError(
                f"{path}: none of its {len(replies):,} replies says what this benchmark's judge is asked for, the "
                f"first is {replies[0]!r:.60}; are they of another benchmark's judge?"
            )
        named = [str(row.values["model"]) for row in models.values() if "model" in row.values]
        return cls(rows, f"recorded replies of {', '.join(sorted(named)) or 'a judge unnamed'} ({Path(path).name})")

    def reply(self, item: BenchmarkItem, answer: str) -> str | None:
        """Returns the recorded reply without thoughts, or None; raises EvaluationError for one about another answer."""
        rows = self._rows.get(item.id, ())
        fitting = [row for row in rows if row.values.get("answer", answer) == answer]
        fitting.sort(key=lambda row: int(row.values.get("attempt", 0)))
        if fitting:
            found = next((row for row in fitting if row.values.get("readable")), fitting[-1])
            return take_off_thoughts(_find_reply(found))
        if rows:
            raise EvaluationError(
                f"{rows[0].place}: this reply is about another answer to item {item.id} than the one scored"
            )
        return None


def _is_same_try(row: Row, other: Row) -> bool:
    """Returns whether two replies to an item are both said to be the one to the same answer."""
    answers = [each.values.get("answer") for each in (row, other)]
    return (None in answers or answers[0] == answers[1]) and row.values.get("attempt") == other.values.get("attempt")


def _check_judge(row: Row, models: dict[str, Row]) -> None:
    """Raises EvaluationError for a reply by another model than the first reply that names one."""
    model = row.first(("requested_model", "model"))
    if model is None:
        return
    models.setdefault(str(model), row)
    if len(models) > 1:
        (one, first), (other, _) = models.items()
        raise EvaluationError(
            f"{row.place}: a reply of the judge {other!r}, where that of {first.place} is of {one!r}; the verdicts of "
            "one result come from one judge: keep the rows of one"
        )


def _find_replied(row: Row, item_ids: Sequence[str]) -> str:
    named = None if "choices" in row.values else row.first(("id", "image_id"))
    if named is not None:
        return str(named)
    if row.position >= len(item_ids):
        raise EvaluationError(f"{row.place}: reply {row.position + 1} without an id, to only {len(item_ids)} items")
    return item_ids[row.position]


def _find_reply(row: Row) -> str:
    reply = row.first(("reply", "judge_reply"))
    if reply is None and "choices" in row.values:
        try:
            reply = row.values["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise EvaluationError(f"{row.place}: a chat completion without choices[0].message.content") from error
    if isinstance(reply, list):  # objects that were already taken out of a reply
        return json.dumps(reply)
    if not isinstance(reply, str):
        has = ", ".join(row.values)
        raise EvaluationError(f'{row.place}: no reply; it has {has}, and the text should be in "reply"')
    return replace_surrogates(reply)
