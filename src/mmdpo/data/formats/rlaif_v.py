"""RLAIF-V's rows: `image`, `question`, `chosen`, `rejected`; the question says nothing of the image's place.

The question is a turn of the user, with the image in front, and the model's chat template renders it.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import ask, is_pair_of_texts, one_of, read_conversation
from mmdpo.data.images import image_sources
from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

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


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether a question without `<image>` stands beside two answers in plain text, and there is no prompt."""
    return is_question(row) and IMAGE_PLACEHOLDER not in row["question"]


def is_question(row: Mapping[str, Any]) -> bool:
    """Returns whether the columns are `question`, `chosen`, `rejected` and images."""
    has_images = "image" in row or "images" in row
    return has_images and "prompt" not in row and isinstance(row.get("question"), str) and is_pair_of_texts(row)


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a column has a value that cannot be read.
    """
    return read_conversation(
        row,
        ask(row.get("question")),
        {CHOSEN: row.get(CHOSEN), REJECTED: row.get(REJECTED)},
        image_sources(one_of(row, "image", "images"), image_root),
        image_sources(row.get("rejected_images"), image_root),
        used=_USED,
        column="question",
        source=source,
        image_root=image_root,
        row_id=row_id,
    )
