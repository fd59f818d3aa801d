"""ms-swift's messages: the chosen answer ends `messages`; `rejected_messages` or `rejected_response` has the other.

`<image>` in the text of a turn marks a place for an image; without any, the images go in front of the text of the
first user turn. `images` and `rejected_images` hold paths or `{"path", "bytes"}`. Where `rejected_images` repeats
`images`, it says only that the rejected answer is about the same image; there is then no corrupted image in the row.
A row with `rejected_images` and no rejected answer compares its answer under both pictures: `rejected` is it too.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html (RLHF, multimodal).
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import read_conversation, refuse_columns
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.images import image_sources
from mmdpo.data.messages import is_messages, split_last_answer
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "<image>What is this?"},
            {"role": "assistant", "content": "A cup."},
        ],
        "rejected_response": "A car.",
        "images": ["cup.jpg"],
    },
    {
        "messages": [
            {"role": "user", "content": "<image>What is this?"},
            {"role": "assistant", "content": "A cup."},
        ],
        "rejected_messages": [
            {"role": "user", "content": "<image>What is this?"},
            {"role": "assistant", "content": "A car."},
        ],
        "images": [{"path": "cup.jpg", "bytes": None}],
        "rejected_images": [{"path": "cup-cropped.jpg", "bytes": None}],
    },
)

_REJECTED_COLUMNS = ("rejected_messages", "rejected_response", "rejected_images")
_UNSUPPORTED = ("videos", "audios", "tools", "objects")
_USED = ("messages", "images", *_REJECTED_COLUMNS, *_UNSUPPORTED)


def matches(row: Row) -> bool:
    """Returns whether there are `messages` and one of the columns that begin with `rejected_`."""
    return is_messages(row.get("messages")) and any(column in row for column in _REJECTED_COLUMNS)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row.

    Raises RowError where a conversation does not end with the assistant, or the two differ before their last turn, and
    for a column that is not supported.
    """
    refuse_columns(row, _UNSUPPORTED)
    prompt, chosen = split_last_answer(row.get("messages"), column="messages")
    rejected = row.get("rejected_response")
    if row.get("rejected_messages") is not None:
        rejected_prompt, rejected = split_last_answer(row["rejected_messages"], column="rejected_messages")
        if rejected_prompt != prompt:
            raise RowError(
                "`messages` and `rejected_messages` differ before their last turn: a pair needs one prompt; repeat the "
                "same turns in both, or give only the answer, as `rejected_response`"
            )
    images, rejected_images = (image_sources(row.get(name), None) for name in ("images", "rejected_images"))
    if rejected_images and rejected is None:
        rejected = chosen  # the row says what it compares: this answer under two pictures
    answers = {CHOSEN: chosen, REJECTED: rejected}
    corrupted = None if rejected_images == images else row.get("rejected_images")
    return read_conversation(row, prompt, row.get("images"), corrupted, answers, used=_USED, column="messages", **place)
