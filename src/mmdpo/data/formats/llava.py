"""LLaVA's conversations with two answers in plain text: `conversations`, `chosen`, `rejected`, `image`.

Turns are `{"from": "human" | "gpt", "value": ...}`. Where the conversation ends with an answer, as supervised data do,
this answer has to be one of the two, and the prompt ends before it. Without `<image>` in any turn the images go in
front of the first one.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md (the conversations).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from mmdpo.data.columns import is_pair_of_texts, one_of, read_conversation, read_sharegpt_turn
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.messages import as_list
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "id": "llava-1",
        "image": "cup.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}],
        "chosen": "A cup.",
        "rejected": "A car.",
    },
)

_USED = ("conversations", "chosen", "rejected", "image", "images", "rejected_images")


def matches(row: Row) -> bool:
    """Returns whether `conversations` stand beside two answers in plain text."""
    return "conversations" in row and is_pair_of_texts(row)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError where the conversation ends with an answer that is neither of the two."""
    turns = [read_sharegpt_turn(turn) for turn in as_list(row.get("conversations")) or ()]
    if turns and isinstance(turns[-1], Mapping) and turns[-1].get("role") == "assistant":
        said = turns.pop()["content"]
        if said not in (row.get(CHOSEN), row.get(REJECTED)):
            raise RowError(
                "`conversations` ends with an answer that is neither `chosen` nor `rejected`: take it out, or make it "
                "one of the two"
            )
    images = one_of(row, "image", "images"), row.get("rejected_images")
    return read_conversation(row, turns, *images, used=_USED, column="conversations", **place)
