"""What a dataloader worker is given: an example, and all that its corrupted images depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from mmdpo.data.pictures import Pictures
from mmdpo.data.stamps import FileStamp, check_unchanged
from mmdpo.records import ImageSource, PreferenceExample, RowError, derive_generator, named_source


class Filler(int):
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
    """False for a filler."""


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
            counts=not isinstance(index, Filler),
        )

    def _draw_others(self, pictures: Pictures, example: PreferenceExample, index: int) -> tuple[ImageSource, ...]:
        drawn = pictures.draw_others(index, derive_generator(self.seed, example.id, "other example", self.epoch))
        if drawn is None:
            raise RowError(
                "random_image takes another example's image, and no other example has a different one",
                source=example.source,
            )
        return tuple(self.examples[row].images[place] for row, place in drawn)
