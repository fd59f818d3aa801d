"""POVID's rows, which MMed-RAG and MMedPO have too: `conversations`, `rejected_conversations`, `image`.

Both are whole conversations `[{"from": "human", "value"}, {"from": "gpt", "value"}]` that differ in their last turn.
`rejected_noised` says of a row whether its rejected side is seen under the run's corrupted image (1) or under the image
itself (0); without the column the objective says it.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://huggingface.co/datasets/YiyangAiLab/POVID_preference_data_for_VLLMs and
https://github.com/aiming-lab/MMedPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import FLAG, one_of, read_conversation, read_sharegpt_turn
from mmdpo.data.images import image_sources
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

_USED = ("conversations", "rejected_conversations", "image", "images", "rejected_images", "image_root", FLAG)


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether there are `conversations` and `rejected_conversations`."""
    return "conversations" in row and "rejected_conversations" in row


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a conversation does not end with the assistant, or the two differ before their last turn.
    """
    prompt, chosen = _split(row, "conversations")
    rejected_prompt, rejected = _split(row, "rejected_conversations")
    if rejected_prompt != prompt:
        raise RowError(
            "`conversations` and `rejected_conversations` differ before their last turn: a pair needs one prompt; "
            "repeat the same turns in both"
        )
    return read_conversation(
        row,
        prompt,
        {CHOSEN: chosen, REJECTED: rejected},
        image_sources(one_of(row, "image", "images"), image_root),
        image_sources(row.get("rejected_images"), image_root),
        used=_USED,
        column="conversations",
        source=source,
        image_root=image_root,
        row_id=row_id,
    )


def _split(row: Mapping[str, Any], column: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    turns = as_list(row.get(column))
    return split_last_answer([read_sharegpt_turn(turn) for turn in turns] if turns else turns, column=column)
