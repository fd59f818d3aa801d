"""RLHF-V's rows: `image`, and a `text` that holds JSON with `question`, `chosen` and `rejected`.

What the JSON holds is a row of `rlaif_v`. Other columns of text are responses, and numbers weights, that an objective
may name.

Source: https://huggingface.co/datasets/openbmb/RLHF-V-Dataset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Unpack

from mmdpo.data.formats import Row, RowPlace, rlaif_v
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "ds_name": "RLHF-V",
        "image": {"bytes": b"\xff\xd8\xff\xe0", "path": None},
        "text": '{"question": "What is this?", "chosen": "A cup.", "rejected": "A car."}',
        "origin_dataset": "COCO",
        "idx": 7,
        "image_path": "COCO/0001.jpg",
    },
)

_KEYS = ("question", CHOSEN, REJECTED)


def matches(row: Row) -> bool:
    """Returns whether `text` is JSON that has a question and both answers, which the row itself has not."""
    try:
        content = _read_text(row)
    except RowError:
        return False
    return all(key in content and key not in row for key in _KEYS)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError where `text` is no JSON mapping, or something in it cannot be read."""
    further = {name: value for name, value in row.items() if name != "text"}
    return rlaif_v.parse({**further, **_read_text(row)}, **place)


def _read_text(row: Row) -> Row:
    text = row.get("text")
    try:
        content = json.loads(text) if isinstance(text, str) else text
    except (RecursionError, ValueError) as error:
        raise RowError(
            f"`text` is not JSON ({error}): write question, chosen and rejected as one JSON object"
        ) from error
    if not isinstance(content, Mapping):
        raise RowError(f"`text` holds {type(content).__name__}: write question, chosen and rejected as one JSON object")
    return content
