"""ms-swift's queries: `query`, `response`, `rejected_response`, with `system`, `history` and `images`.

`response` is the chosen answer. Images go where `<image>` stands in the query or its history, else in front of the
first question. A row with `rejected_images` and no rejected answer compares its answer under both pictures.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html (query-response).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import ask, read_conversation, refuse_columns
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


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether there are a query, a response, and a rejected response or rejected images."""
    return "query" in row and "response" in row and ("rejected_response" in row or "rejected_images" in row)


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a column has a value that cannot be read, or something that is not supported.
    """
    refuse_columns(row, _UNSUPPORTED)
    rejected, rejected_images = row.get("rejected_response"), image_sources(row.get("rejected_images"), image_root)
    if rejected is None and rejected_images:
        rejected = row.get("response")
    return read_conversation(
        row,
        ask(row.get("query"), row.get("system"), row.get("history")),
        {CHOSEN: row.get("response"), REJECTED: rejected},
        image_sources(row.get("images"), image_root),
        rejected_images,
        used=_USED,
        column="query",
        source=source,
        image_root=image_root,
        row_id=row_id,
    )
