"""MMPR's rows: `image` (a path or a list of them), `question` with its `<image>` marks, `chosen`, `rejected`.

Columns mean what they mean in `rlaif_v`; here the question says where its images belong. Rows without an image have an
empty `image`, or none.

Source: https://huggingface.co/datasets/OpenGVLab/MMPR (what InternVL 2.5 and later were preference-trained with).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.formats import rlaif_v
from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.records import PreferenceExample

EXAMPLES = (
    {"image": "images/cup.jpg", "question": "<image>\nWhat is this?", "chosen": "A cup.", "rejected": "A car."},
    {
        "image": ["images/cup.jpg", "images/car.jpg"],
        "question": "<image>\n<image>\nWhich one has wheels?",
        "chosen": "The second.",
        "rejected": "The first.",
    },
)


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether a question with `<image>` in it stands beside two answers in plain text."""
    return rlaif_v.is_question(row) and IMAGE_PLACEHOLDER in row["question"]


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a column has a value that cannot be read.
    """
    return rlaif_v.parse(row, source=source, image_root=image_root, row_id=row_id)
