"""The picture of a benchmark's item, as large as a page shows it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mmdpo.evaluation.pictures import find_picture
from mmdpo.report.layout import Thumbnail, make_thumbnail, open_picture

LONGEST_SIDE = 1280
"""Pixels of a picture on the page."""


@lru_cache(maxsize=64)
def item_picture(image_dir: Path | None, benchmark: str, item: str, image: str) -> Thumbnail:
    """Returns the picture of an item, or why it cannot be shown."""
    found = find_picture(image_dir, benchmark, item, image)
    if isinstance(found, Path):
        try:
            with open_picture(found) as opened:
                return make_thumbnail(opened, LONGEST_SIDE)
        except (OSError, ValueError):
            pass  # and is said by what follows
    if found is None:
        return Thumbnail(why=": the picture is missing; --image_dir names the folder that has it")
    return make_thumbnail(found, LONGEST_SIDE)
