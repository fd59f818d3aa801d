"""SymMPO's rows: one question, two pictures, and for each picture its right answer and a wrong one.

`image_1`, `image_2`, `resp_1_w`, `resp_1_l`, `resp_2_w`, `resp_2_l`. The second picture is the contrast: it becomes the
row's corrupted image (`rejected_images`), and its right answer the response `alternative`, which the preset `symmpo`
reads. `resp_2_l` and other columns of text are responses under their own names.

Source: https://github.com/Liuwq-bit/SymMPO (arXiv 2506.11712).
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import ask, read_conversation
from mmdpo.data.formats import Row, RowPlace
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


def matches(row: Row) -> bool:
    """Returns whether there are a question, two images and the answers of both."""
    return all(column in row for column in _NEEDED)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError for a value that cannot be read."""
    answers = {CHOSEN: row.get("resp_1_w"), REJECTED: row.get("resp_1_l"), ALTERNATIVE: row.get("resp_2_w")}
    turns, images = ask(row.get("question")), (row.get("image_1"), row.get("image_2"))
    return read_conversation(row, turns, *images, answers, used=_USED, column="question", **place)
