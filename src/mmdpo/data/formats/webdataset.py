"""Rows of WebDataset shards: image members, and a member `json` with `prompt`, `chosen`, `rejected`.

What `json` holds is a row of the format `trl` without its images. These are the members that end in an image's
extension, in the order of their names and numbers: `0001.jpg`, or `0001.0.jpg` and `0001.1.jpg` where there are
several. Members whose name begins with `rejected` (`0001.rejected.jpg`) are the corrupted images.

Any further column of `json`, and any further member, is a response if it is text or turns, and a weight if it is a
number, that an objective may name.

Source: https://github.com/webdataset/webdataset (files with one base name are one row) and
https://huggingface.co/docs/hub/datasets-webdataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from mmdpo.data.formats import Row, RowPlace, trl
from mmdpo.records import PreferenceExample, RowError

EXAMPLES = (
    {
        "__key__": "0001",
        "__url__": "pairs-00000.tar",
        "jpg": {"path": "0001.jpg", "bytes": b"\xff\xd8\xff\xe0"},
        "json": {"prompt": "<image>\nWhat is this?", "chosen": "A cup.", "rejected": "A car."},
    },
    {
        "__key__": "0001",
        "0.png": {"path": "0001.0.png", "bytes": b"\x89PNG0"},
        "1.png": {"path": "0001.1.png", "bytes": b"\x89PNG1"},
        "rejected.0.png": {"path": "0001.rejected.0.png", "bytes": b"\x89PNG2"},
        "rejected.1.png": {"path": "0001.rejected.1.png", "bytes": b"\x89PNG3"},
        "json": {
            "prompt": [{"role": "user", "content": "<image><image>Which is larger?"}],
            "chosen": [{"role": "assistant", "content": "The first."}],
            "rejected": [{"role": "assistant", "content": "The second."}],
        },
    },
)

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_REJECTED = "rejected"


def matches(row: Row) -> bool:
    """Returns whether there are the key of a WebDataset row and a member `json`."""
    return "__key__" in row and "json" in row


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row.

    Raises RowError where `json` is no mapping or no row of `trl`, or has images although there are members with images.
    """
    content = row.get("json")
    if not isinstance(content, Mapping):
        raise RowError(f"`json` is of type {type(content).__name__}: write a mapping with prompt, chosen and rejected")
    members = sorted((name for name in row if name.rpartition(".")[2].lower() in _IMAGES), key=_by_number)
    found = {
        "images": [row[name] for name in members if row[name] is not None and not name.startswith(_REJECTED)],
        "rejected_images": [row[name] for name in members if row[name] is not None and name.startswith(_REJECTED)],
    }
    for column, images in found.items():
        if images and (content.get(column) or content.get(column.removesuffix("s"))):
            raise RowError(f"`json` has `{column}` and there are image members, too: leave one of them out")
    given = {column: images for column, images in found.items() if images}
    further = {name: value for name, value in row.items() if name not in (*members, "__key__", "__url__", "json")}
    return trl.parse({**further, **content, **given}, **place)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
