"""LLaMA-Factory's ShareGPT preference format: `conversations`, `chosen`, `rejected`, `images`.

Turns are `{"from": "human" | "gpt" | "system", "value": ...}`, or in its OpenAI spelling `messages` with `role` and
`content`. `chosen` and `rejected` are one turn each. An optional `system` column is the first turn. Every image needs
its `<image>` in a turn. `rejected_images`, which LLaMA-Factory does not have, are the corrupted images.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (sharegpt, preference dataset).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from mmdpo.data.columns import one_of, read_conversation, read_sharegpt_turn, refuse_columns
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.messages import as_list
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

EXAMPLES = (
    {
        "conversations": [{"from": "human", "value": "<image>What is this?"}],
        "chosen": {"from": "gpt", "value": "A cup."},
        "rejected": {"from": "gpt", "value": "A car."},
        "images": ["cup.jpg"],
    },
    {
        "messages": [{"role": "user", "content": "<image>What is this?"}],
        "chosen": {"role": "assistant", "content": "A cup."},
        "rejected": {"role": "assistant", "content": "A car."},
        "images": ["cup.jpg"],
    },
)

_UNSUPPORTED = ("videos", "audios", "tools")
_USED = ("conversations", "messages", "chosen", "rejected", "images", "rejected_images", "system", *_UNSUPPORTED)


def matches(row: Row) -> bool:
    """Returns whether there are `conversations` or `messages`, and both answers are one turn."""
    return ("conversations" in row or "messages" in row) and _is_turn(row.get(CHOSEN)) and _is_turn(row.get(REJECTED))


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row.

    Raises RowError for a turn of a kind that is not supported (observation, function_call), and such a column.
    """
    refuse_columns(row, _UNSUPPORTED)
    turns = [read_sharegpt_turn(turn) for turn in as_list(one_of(row, "conversations", "messages")) or []]
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": row["system"]})
    answers = {column: row.get(column) and read_sharegpt_turn(row[column]) for column in (CHOSEN, REJECTED)}
    how: Any = dict(answers=answers, used=_USED, column="conversations", images_first=False)
    return read_conversation(row, turns, row.get("images"), row.get("rejected_images"), **how, **place)


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and ({"from", "value"} <= value.keys() or {"role", "content"} <= value.keys())
