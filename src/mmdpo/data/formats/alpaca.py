"""LLaMA-Factory's alpaca form of a pair: `instruction`, `input`, `chosen`, `rejected`, `images`.

The prompt is the instruction, and below it the input where there is one; before it come `system` and `history`, a list
of [question, answer]. Every image needs its `<image>` in a text, as in LLaMA-Factory.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (alpaca, preference dataset).
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import ask, is_pair_of_texts, read_conversation, refuse_columns
from mmdpo.data.formats import Row, RowPlace
from mmdpo.records import PreferenceExample, RowError

EXAMPLES = (
    {
        "instruction": "<image>What is this?",
        "input": "",
        "chosen": "A cup.",
        "rejected": "A car.",
        "images": ["cup.jpg"],
    },
    {
        "instruction": "And this?",
        "input": "The one on the left.",
        "history": [["<image>What is in the middle?", "A table."]],
        "system": "Answer briefly.",
        "chosen": "A cup.",
        "rejected": "A car.",
        "images": ["cup.jpg"],
    },
)

_UNSUPPORTED = ("videos", "audios", "tools")
_USED = ("instruction", "input", "system", "history", "chosen", "rejected", "images", "rejected_images", *_UNSUPPORTED)


def matches(row: Row) -> bool:
    """Returns whether an `instruction` stands beside two answers in plain text."""
    return "instruction" in row and is_pair_of_texts(row)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError for a value that cannot be read, or a column that is not supported."""
    refuse_columns(row, _UNSUPPORTED)
    said = [row[column] for column in ("instruction", "input") if row.get(column)]
    if not all(isinstance(text, str) for text in said):
        raise RowError("`instruction` and `input` must be text")
    turns = ask("\n".join(said), row.get("system"), row.get("history"))
    images = row.get("images"), row.get("rejected_images")
    return read_conversation(row, turns, *images, used=_USED, column="instruction", images_first=False, **place)
