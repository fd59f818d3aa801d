"""MM-RLHF's rows: `image`, a bare `prompt`, `chosen`, `rejected`, and what its annotators said of the pair.

The columns are those of a plain row of `trl`, whose prompt has the chat template applied; here the prompt is a
question, which the model's chat template renders. So the format is recognised by what only MM-RLHF has beside them
(`chosen_reason`, `is_tie`, …); name it (`dataset_format: mm_rlhf`) for other rows of bare questions. Rows with a
`video` are refused.

Source: https://github.com/Kwai-YuanQi/MM-RLHF (arXiv 2502.10391), `dpo_pairs.jsonl`.
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import is_pair_of_texts, one_of, refuse_columns
from mmdpo.data.formats import Row, RowPlace, rlaif_v
from mmdpo.records import PreferenceExample

EXAMPLES = (
    {
        "image": "short/cup.jpg",
        "prompt": "<image>\nWhat is this?",
        "chosen": "A cup.",
        "rejected": "A car.",
        "chosen_reason": "It names the object.",
        "rejected_reason": "There is no car.",
    },
)

_MARKS = ("chosen_reason", "rejected_reason", "is_tie", "mixed_up_image")


def matches(row: Row) -> bool:
    """Returns whether a plain pair has a column that only MM-RLHF has."""
    return isinstance(row.get("prompt"), str) and is_pair_of_texts(row) and any(mark in row for mark in _MARKS)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError for a video, and a value that cannot be read."""
    refuse_columns(row, ("video",))
    renamed = {name: value for name, value in row.items() if name not in ("prompt", "mixed_up_image")}
    rejected_images = one_of(row, "mixed_up_image", "rejected_images")
    return rlaif_v.parse({**renamed, "question": row.get("prompt"), "rejected_images": rejected_images}, **place)
