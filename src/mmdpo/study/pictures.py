"""Pictures of a dataset: which are the same, and small copies to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image, Resampling
from xxhash import xxh3_128

from mmdpo.records import ImageSource, PreferenceExample

LONGEST_SIDE = 320
"""Pixels of a small copy."""


def name_images(example: PreferenceExample) -> str:
    """Returns a name that examples of the same images share: paths, or digests of what has none; "" without any."""
    return " ".join(_name(source) for source in example.images)


def find_paths(sources: Sequence[ImageSource]) -> list[str]:
    """Returns the paths of those images that are files."""
    return [str(source) for source in sources if isinstance(source, str | Path)]


def save_small(image: Image, path: Path) -> None:
    """Saves a copy that is small enough for a page; small pictures keep their pixels."""
    copy = image.copy()
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    copy.save(path)


def _name(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return xxh3_128(source if isinstance(source, bytes) else source.tobytes()).hexdigest()
