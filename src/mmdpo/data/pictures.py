"""The distinct pictures of a dataset, so that a row can be shown one of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmdpo.data.images import digest_image
from mmdpo.records import ImageSource, RowError


class Pictures:
    """Which pictures there are, each once however many rows show it, and which of them each row shows.

    Pictures are known by their content: the encoded bytes, or the pixels of an open image. Files are read only where
    others of the same size could be copies of them.
    """

    def __init__(self, rows: Iterable[Sequence[ImageSource]]) -> None:
        places: dict[str, tuple[int, int]] = {}
        sizes: dict[str, int | None] = {}
        named_rows: list[tuple[str, ...]] = []
        for row, images in enumerate(rows):
            names = tuple(_name(image) for image in images)
            for place, (name, image) in enumerate(zip(names, images, strict=True)):
                if name not in places:
                    places[name], sizes[name] = (row, place), _size(image)
            named_rows.append(names)
        of_size = Counter(sizes.values())
        contents = {
            name: _digest_file(name) if name.startswith(_FILE) and of_size[sizes[name]] > 1 else name for name in places
        }
        numbers: dict[str, int] = {}
        self._first: list[tuple[int, int]] = []
        for name, first in places.items():
            if contents[name] not in numbers:
                numbers[contents[name]] = len(numbers)
                self._first.append(first)
        self._shown = [tuple(numbers[contents[name]] for name in names) for names in named_rows]

    def draw_others(self, row: int, generator: np.random.Generator) -> list[tuple[int, int]] | None:
        """Draws a picture for each of a row's own: uniformly, none of the row's, no two alike while there are enough.

        Returns rows and places in their images where these pictures stand; None where the row's own are all there are.
        """
        own, drawn = set(self._shown[row]), list[int]()
        if own and len(own) == len(self._first):
            return None
        for _ in self._shown[row]:
            left_out = own.union(drawn)
            if len(left_out) == len(self._first):
                left_out = own
            number = int(generator.integers(len(self._first) - len(left_out)))
            for passed in sorted(left_out):
                number += number >= passed
            drawn.append(number)
        return [self._first[number] for number in drawn]


_FILE = "file "


def _name(source: ImageSource) -> str:
    """Returns what tells a picture apart before any file is read."""
    return f"{_FILE}{source}" if isinstance(source, str | Path) else digest_image(source)


def _size(source: ImageSource) -> int | None:
    """Returns the length of the encoded image in bytes, None for one that is not encoded or that cannot be found."""
    if isinstance(source, bytes):
        return len(source)
    try:
        return Path(source).stat().st_size if isinstance(source, str | Path) else None
    except (OSError, ValueError):
        return None


def _digest_file(name: str) -> str:
    try:
        return digest_image(name.removeprefix(_FILE))
    except RowError:
        return name  # said when the picture is opened, with the row that it is of
