"""Recorded replies of a judge: read from a file instead of being asked for.

ours      {"id": …, "reply": …} on each line; with "answer", the reply is used for that answer alone; with "attempt", it
          is one of several to the same answer, of which "readable" says which counts: the first such, else the last
official  an array of chat completions, `choices[0].message.content`, in the order of the items
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.answers import Row, read_rows
from mmdpo.benchmarks.definitions import BenchmarkItem
from mmdpo.benchmarks.reading import EvaluationError, replace_surrogates

_ID_FIELDS = ("id", "image_id")
_REPLY_FIELDS = ("reply", "judge_reply")


class RecordedReplies:
    """A judge that only repeats what was recorded; an item without a record has no reply."""

    def __init__(self, rows: Mapping[str, Sequence[Row]], name: str) -> None:
        """Takes the rows of each item, and which judge wrote them."""
        self.name = name
        self._rows = rows

    @classmethod
    def read(cls, path: str | Path, item_ids: Sequence[str]) -> RecordedReplies:
        """Reads a file of replies to these items, in their official order.

        Raises EvaluationError with file and line for a row that is no reply, an id that is no item's, or two replies to
        one item.
        """
        known, rows = frozenset(item_ids), dict[str, list[Row]]()
        models = set()
        for row in read_rows(Path(path)):
            item_id = _find_id(row, item_ids)
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
            models.add(str(row.values.get("model", "unnamed")))
        return cls(rows, f"recorded replies of {', '.join(sorted(models)) or 'nobody'} ({Path(path).name})")

    def reply(self, item: BenchmarkItem, answer: str) -> str | None:
        """Returns the recorded reply, or None; raises EvaluationError if it was given to another answer."""
        rows = self._rows.get(item.id, ())
        fitting = sorted(
            (row for row in rows if row.values.get("answer", answer) == answer),
            key=lambda row: int(row.values.get("attempt", 0)),
        )
        if rows and not fitting:
            raise EvaluationError(
                f"{rows[0].place}: this reply is about another answer to item {item.id} than the one scored"
            )
        if not fitting:
            return None
        return _find_reply(next((row for row in fitting if row.values.get("readable")), fitting[-1]))


def _is_same_try(row: Row, other: Row) -> bool:
    """Returns whether two replies to an item are both said to be the one to the same answer."""
    answers = [each.values.get("answer") for each in (row, other)]
    attempts = [each.values.get("attempt") for each in (row, other)]
    return (None in answers or answers[0] == answers[1]) and attempts[0] == attempts[1]


def _find_id(row: Row, item_ids: Sequence[str]) -> str:
    named = next((row.values[name] for name in _ID_FIELDS if name in row.values and "choices" not in row.values), None)
    if named is not None:
        return str(named)
    if row.position >= len(item_ids):
        raise EvaluationError(f"{row.place}: reply {row.position + 1} without an id, to only {len(item_ids)} items")
    return item_ids[row.position]


def _find_reply(row: Row) -> str:
    values: Mapping[str, Any] = row.values
    reply = next((values[name] for name in _REPLY_FIELDS if name in values), None)
    if reply is None and "choices" in values:
        try:
            reply = values["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise EvaluationError(f"{row.place}: a chat completion without choices[0].message.content") from error
    if isinstance(reply, list):  # objects that were already taken out of a reply
        return json.dumps(reply)
    if not isinstance(reply, str):
        raise EvaluationError(f'{row.place}: no reply; it has {", ".join(values)}, and the text should be in "reply"')
    return replace_surrogates(reply)
