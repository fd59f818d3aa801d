"""MMPR's rows: `image` (a path or a list of them), `question` with its `<image>` marks, `chosen`, `rejected`.

Columns mean what they mean in `rlaif_v`; here the question says where its images belong. Rows without an image have an
empty `image`, or none.

Source: https://huggingface.co/datasets/OpenGVLab/MMPR (what InternVL 2.5 and later were preference-trained with).
"""

from __future__ import annotations

from mmdpo.data.formats import Row, rlaif_v
from mmdpo.data.messages import IMAGE_PLACEHOLDER

EXAMPLES = (
    {"image": "images/cup.jpg", "question": "<image>\nWhat is this?", "chosen": "A cup.", "rejected": "A car."},
    {
        "image": ["images/cup.jpg", "images/car.jpg"],
        "question": "<image>\n<image>\nWhich one has wheels?",
        "chosen": "The second.",
        "rejected": "The first.",
    },
)


def matches(row: Row) -> bool:
    """Returns whether a question with `<image>` in it stands beside two answers in plain text."""
    return rlaif_v.is_question(row) and IMAGE_PLACEHOLDER in row["question"]


parse = rlaif_v.parse
