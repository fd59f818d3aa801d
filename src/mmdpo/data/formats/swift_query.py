"""ms-swift's queries: `query`, `response`, `rejected_response`, with `system`, `history` and `images`.

`response` is the chosen answer. Images go where `<image>` stands in the query or its history, else in front of the
first question. A row with `rejected_images` and no rejected answer compares its answer under both pictures.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html (query-response).
"""

from __future__ import annotations

from typing import Unpack

from mmdpo.data.columns import ask, read_conversation, refuse_columns
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.images import image_sources
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

EXAMPLES = (
    {"query": "<image>What is this?", "response": "A cup.", "rejected_response": "A car.", "images": ["cup.jpg"]},
    {
        "query": "And on the left?",
        "response": "A cup.",
        "rejected_response": "A car.",
        "history": [["<image>What is in the middle?", "A table."]],
        "system": "Answer briefly.",
        "images": ["cup.jpg"],
    },
)

_UNSUPPORTED = ("videos", "audios", "tools", "objects")
_USED = ("query", "response", "rejected_response", "system", "history", "images", "rejected_images", *_UNSUPPORTED)


def matches(row: Row) -> bool:
    """Returns whether there are a query, a response, and a rejected response or rejected images."""
    return "query" in row and "response" in row and ("rejected_response" in row or "rejected_images" in row)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row. Raises RowError for a value that cannot be read, or a column that is not supported."""
    refuse_columns(row, _UNSUPPORTED)
    answers = {CHOSEN: row.get("response"), REJECTED: row.get("rejected_response")}
    if answers[REJECTED] is None and image_sources(row.get("rejected_images"), None):
        answers[REJECTED] = answers[CHOSEN]
    turns, images = ask(row.get("query"), row.get("system"), row.get("history")), row.get("images")
    return read_conversation(
        row, turns, images, row.get("rejected_images"), answers, used=_USED, column="query", **place
    )
