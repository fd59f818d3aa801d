"""What a dataloader worker is given: an example, and all that its corrupted images depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from mmdpo.data.pictures import Pictures
from mmdpo.data.stamps import FileStamp, check_unchanged
from mmdpo.records import ImageSource, PreferenceExample, RowError, derive_generator


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
        self,
        examples: Sequence[PreferenceExample],
        *,
        seed: int,
        draw_others: bool = False,
        per_epoch: bool = False,
        lengths: Sequence[int] | None = None,
    ) -> None:
        if draw_others and len(examples) < 2:
            raise ValueError("random_image takes another example's image, and the dataset has one row only")
        self.examples = examples
        self.seed = seed
        self.draw_others = draw_others
        self._pictures = Pictures(example.images for example in examples) if draw_others else None
        self.per_epoch = per_epoch
        self.lengths = lengths
        """Tokens of each example, where they were counted."""
        self.epoch = 0
        self.ref_logprobs: Float[Tensor, "N C"] | None = None
        """Set by the pass before training; None for a dataset whose references are scored live."""
        self.stamps: Mapping[str, FileStamp] = {}
        """Set by that pass: image files as it has read them."""

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's corruptions, where each epoch has its own."""
        self.epoch = epoch if self.per_epoch else 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Item:
        example = self.examples[index]
        others = () if self._pictures is None else self._draw_others(self._pictures, example, index)
        try:
            check_unchanged((*example.images, *example.rejected_images, *others), self.stamps)
        except RowError as error:
            raise RowError(error.problem, source=example.source) from error
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
