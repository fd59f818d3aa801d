"""What a dataloader worker is given: an example, and all that its corrupted images depend on.

Among it are the pictures of other examples, and what image files were like when the reference was scored under them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from mmdpo.data.images import digest_image
from mmdpo.records import ImageSource, PreferenceExample, RowError, derive_generator, named_source


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
        self.shown = [tuple(numbers[contents[name]] for name in names) for names in named_rows]
        """The numbers of each row's pictures."""

    def draw_others(self, row: int, generator: np.random.Generator) -> list[tuple[int, int]] | None:
        """Draws a picture for each of a row's own: uniformly, none of the row's, no two alike while there are enough.

        Returns rows and places in their images where these pictures stand; None where the row's own are all there are.
        """
        own, drawn = set(self.shown[row]), list[int]()
        if own and len(own) == len(self._first):
            return None
        for _ in self.shown[row]:
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


@dataclass(frozen=True)
class FileStamp:
    """What a file was like when it was read."""

    size: int
    """Bytes."""
    changed_ns: int
    """Time of its last change, in nanoseconds."""
    digest: str
    """Of its content."""


def stamp_file(path: Path) -> FileStamp:
    """Returns the stamp of an image file. Raises RowError for one that cannot be read."""
    try:
        before = path.stat()  # looked at first, so that what changes while it is read is noticed later
    except OSError:
        digest_image(path)  # says what is wrong
        raise
    return FileStamp(before.st_size, before.st_mtime_ns, digest_image(path))


def check_unchanged(sources: Iterable[ImageSource], stamps: Mapping[str, FileStamp]) -> None:
    """Raises RowError for an image file with another content than its stamp says; files without one pass.

    A file of the same size and time is not read. One that is missing is left to what opens it.
    """
    for source in sources:
        if not isinstance(source, str | Path) or str(source) not in stamps:
            continue
        path, stamp = Path(source), stamps[str(source)]
        try:
            now = path.stat()
            is_other = (now.st_size, now.st_mtime_ns) != (stamp.size, stamp.changed_ns)
            is_replaced = is_other and stamp_file(path).digest != stamp.digest
        except FileNotFoundError:
            continue
        if is_replaced:
            raise RowError(
                f"image file {path} was replaced after the reference had been scored under the one before: put that "
                "back, or start anew, so that policy and reference see one picture"
            )


class PaddingRow(int):
    """The place of a row that only fills up a batch, so that every process has one; its pair counts for nothing."""


@dataclass(frozen=True)
class Item:
    """One example on its way to the collator."""

    example: PreferenceExample
    index: int
    """Place in the dataset, from 0."""
    epoch: int = 0
    """0 unless a fresh corruption is made for each epoch."""
    other_images: tuple[ImageSource, ...] = ()
    """What `random_image` shows, drawn from the pictures of other examples: one for each image of the example."""
    ref_logprobs: Float[Tensor, "C"] | None = None
    """Precomputed reference log-probabilities of those reference cells that stay the same in every epoch, in nats."""
    counts: bool = True
    """False for a padding row."""


class Items(Dataset[Item]):
    """Examples as items. Which other pictures an item names depends on the examples, the seed and its id alone."""

    def __init__(
        self, examples: Sequence[PreferenceExample], *, seed: int, draw_others: bool = False, per_epoch: bool = False
    ) -> None:
        self.seed = seed
        self.draw_others = draw_others
        self.per_epoch = per_epoch
        self.epoch = 0
        self.stamps: Mapping[str, FileStamp] = {}
        """Of the image files that the reference was scored under, by path."""
        self.ref_logprobs: Float[Tensor, "N C"] | None = None
        """None until the rows were scored before training."""
        self.is_tried = False
        """Whether the faulty rows were left out."""
        self.lengths: Sequence[int] | None = None
        """Tokens of each example, prompt and answers; None until they were counted."""
        self.keep(examples)

    def keep(self, examples: Sequence[PreferenceExample]) -> None:
        """Takes these examples, and leaves all others out."""
        if self.draw_others and len(examples) < 2:
            raise ValueError("random_image takes another example's image, and the dataset has one row only")
        self.examples: Any = examples
        self._pictures = Pictures(map(self._images_of, range(len(examples)))) if self.draw_others else None

    def _images_of(self, index: int) -> tuple[ImageSource, ...]:
        try:
            return tuple(self.examples[index].images)
        except Exception:
            return ()  # the check of every row names it

    def list_pictures(self) -> Sequence[tuple[int, ...]]:
        """Returns numbers of the pictures that each example shows, equal for equal pictures."""
        pictures = self._pictures or Pictures(map(self._images_of, range(len(self.examples))))
        return pictures.shown

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch, which has corrupted images of its own if the run asked for that."""
        self.epoch = epoch if self.per_epoch else 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Item:
        example = self.examples[index]
        others = () if self._pictures is None else self._draw_others(self._pictures, example, index)
        with named_source(example.source):
            check_unchanged((*example.images, *example.rejected_images, *others), self.stamps)
        return Item(
            example=example,
            index=index,
            epoch=self.epoch,
            other_images=others,
            ref_logprobs=None if self.ref_logprobs is None else self.ref_logprobs[index],
            counts=not isinstance(index, PaddingRow),
        )

    def _draw_others(self, pictures: Pictures, example: PreferenceExample, index: int) -> tuple[ImageSource, ...]:
        drawn = pictures.draw_others(index, derive_generator(self.seed, example.id, "other example", self.epoch))
        if drawn is None:
            raise RowError(
                "random_image takes another example's image, and no other example has a different one",
                source=example.source,
            )
        return tuple(self.examples[row].images[place] for row, place in drawn)
