"""RLAIF-V's rows: `image`, `question`, `chosen`, `rejected`; the question says nothing of the image's place.

The question is a turn of the user, with the image in front, and the model's chat template renders it.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset.
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import ask, is_pair_of_texts, one_of, read_conversation
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.records import PreferenceExample

EXAMPLES = (
    {
        "ds_name": "RLAIF-V",
        "image": {"bytes": b"\xff\xd8\xff\xe0", "path": None},
        "question": "What is this?",
        "chosen": "A cup.",
        "rejected": "A car.",
        "origin_dataset": "COCO",
        "idx": 12,
        "image_path": "COCO/0001.jpg",
    },
)

_USED = ("image", "images", "question", "chosen", "rejected", "rejected_images", "image_path")


def matches(row: Row) -> bool:
    """Returns whether a question without `<image>` stands beside two answers in plain text, and there is no prompt."""
    return is_question(row) and IMAGE_PLACEHOLDER not in row["question"]


def is_question(row: Row) -> bool:
    """Returns whether the columns are `question`, `chosen`, `rejected` and images."""
    has_images = "image" in row or "images" in row
    return has_images and "prompt" not in row and isinstance(row.get("question"), str) and is_pair_of_texts(row)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError for a value that cannot be read."""
    images = one_of(row, "image", "images"), row.get("rejected_images")
    return read_conversation(row, ask(row.get("question")), *images, used=_USED, column="question", **place)
