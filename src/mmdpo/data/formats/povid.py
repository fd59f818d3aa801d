"""POVID's rows, which MMed-RAG and MMedPO have too: `conversations`, `rejected_conversations`, `image`.

Both are whole conversations `[{"from": "human", "value"}, {"from": "gpt", "value"}]` that differ in their last turn.
`rejected_noised` says of a row whether its rejected side is seen under the run's corrupted image (1) or under the image
itself (0); without the column the objective says it.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://huggingface.co/datasets/YiyangAiLab/POVID_preference_data_for_VLLMs and
https://github.com/aiming-lab/MMedPO.
"""

from __future__ import annotations

from typing import Any, Unpack

from mmdpo.data.columns import FLAG, one_of, read_conversation, read_sharegpt_turn
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.messages import as_list, split_last_answer
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "id": "povid-1",
        "image": "cup.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A cup."},
        ],
        "rejected_conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A car."},
        ],
    },
)

_CONVERSATIONS = ("conversations", "rejected_conversations")
_USED = (*_CONVERSATIONS, "image", "images", "rejected_images", "image_root", FLAG)


def matches(row: Row) -> bool:
    """Returns whether there are `conversations` and `rejected_conversations`."""
    return all(column in row for column in _CONVERSATIONS)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row.

    Raises RowError where a conversation does not end with the assistant, or the two differ before their last turn.
    """
    (prompt, chosen), (rejected_prompt, rejected) = (_split(row, column) for column in _CONVERSATIONS)
    if rejected_prompt != prompt:
        raise RowError(
            "`conversations` and `rejected_conversations` differ before their last turn: a pair needs one prompt; "
            "repeat the same turns in both"
        )
    images = one_of(row, "image", "images"), row.get("rejected_images")
    answers = {CHOSEN: chosen, REJECTED: rejected}
    return read_conversation(row, prompt, *images, answers, used=_USED, column="conversations", **place)


def _split(row: Row, column: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    turns = as_list(row.get(column))
    return split_last_answer([read_sharegpt_turn(turn) for turn in turns] if turns else turns, column=column)
