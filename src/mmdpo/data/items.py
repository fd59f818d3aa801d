"""What a dataloader worker is given: an example, and all that its corrupted images depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from mmdpo.data.stamps import FileStamp, check_unchanged
from mmdpo.examples import PreferenceExample, RowError, derive_generator


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
    other: PreferenceExample | None = None
    """The example whose images `random_image` takes."""
    ref_logprobs: Float[Tensor, "C"] | None = None
    """Precomputed reference log-probabilities of those reference cells that stay the same in every epoch, in nats."""
    counts: bool = True
    """False for a filler."""


class Items(Dataset[Item]):
    """Examples as items. Which other example an item names depends on the seed and its id alone."""

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
        other = self._draw_other(example, index) if self.draw_others else None
        try:
            shown = (*example.images, *example.rejected_images, *(other.images if other is not None else ()))
            check_unchanged(shown, self.stamps)
        except RowError as error:
            raise RowError(error.problem, source=example.source) from error
        return Item(
            example=example,
            index=index,
            epoch=self.epoch,
            other=other,
            ref_logprobs=None if self.ref_logprobs is None else self.ref_logprobs[index],
            counts=not isinstance(index, Filler),
        )

    def _draw_other(self, example: PreferenceExample, index: int) -> PreferenceExample:
        generator = derive_generator(self.seed, example.id, "other example", self.epoch)
        others = len(self.examples) - 1
        start = int(generator.integers(others))
        # From a random place onwards: where one example alone has another picture, it is found.
        for step in range(others):
            place = (start + step) % others
            other = self.examples[place + (place >= index)]
            if other.images and other.images != example.images:
                return other
        raise RowError(
            "random_image takes another example's image, and no other example has a different one",
            source=example.source,
        )
