"""SymMPO's rows: one question, two pictures, and for each picture its right answer and a wrong one.

`image_1`, `image_2`, `resp_1_w`, `resp_1_l`, `resp_2_w`, `resp_2_l`. The second picture is the contrast: it becomes the
row's corrupted image (`rejected_images`), and its right answer the response `alternative`, which the preset `symmpo`
reads. `resp_2_l` and other columns of text are responses under their own names.

Source: https://github.com/Liuwq-bit/SymMPO (arXiv 2506.11712).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import ask, read_conversation
from mmdpo.data.images import image_sources
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

EXAMPLES = (
    {
        "question": "What is this?",
        "image_1": {"bytes": b"\xff\xd8\xff\xe0", "path": None},
        "image_2": {"bytes": b"\xff\xd8\xff\xe1", "path": None},
        "resp_1_w": "A cup.",
        "resp_1_l": "A car.",
        "resp_2_w": "A kettle.",
        "resp_2_l": "A cup.",
        "idx": 3,
    },
)

ALTERNATIVE = "alternative"
_NEEDED = ("question", "image_1", "image_2", "resp_1_w", "resp_1_l", "resp_2_w")
_USED = (*_NEEDED, "image_path_1", "image_path_2")


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether there are a question, two images and the answers of both."""
    return all(column in row for column in _NEEDED)


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a column has a value that cannot be read.
    """
    return read_conversation(
        row,
        ask(row.get("question")),
        {CHOSEN: row.get("resp_1_w"), REJECTED: row.get("resp_1_l"), ALTERNATIVE: row.get("resp_2_w")},
        image_sources(row.get("image_1"), image_root),
        image_sources(row.get("image_2"), image_root),
        used=_USED,
        column="question",
        source=source,
        image_root=image_root,
        row_id=row_id,
    )
