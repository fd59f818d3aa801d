"""From one item to open images and tokens: every image version that the cells need, and every answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL.Image import Image

from mmdpo.corruption import Corruption, corrupt_image
from mmdpo.data.images import digest_image, open_image
from mmdpo.data.items import Item
from mmdpo.data.messages import plain_text
from mmdpo.data.tokenise import PromptText, Renderer
from mmdpo.data.validate import PAIR, validate_example
from mmdpo.records import (
    CHOSEN,
    CORRUPTED,
    NO_IMAGE,
    ORIGINAL,
    REJECTED,
    Cell,
    Comparisons,
    ImageSource,
    PreferenceExample,
    Region,
    RowError,
    compares_images,
    image_versions,
    named_source,
    needs_image,
    response_names,
)


@dataclass(frozen=True)
class Context:
    """A prompt under one version of the images, ready for the processor."""

    text: str
    images: tuple[Image, ...]
    version: str


@dataclass(frozen=True)
class PreparedExample:
    """An example with its images open and its answers tokenised."""

    item: Item
    contexts: dict[str, Context]
    """By image version."""
    answers: dict[str, list[int]]
    """By response name, uncut."""


@dataclass(frozen=True)
class Opened:
    """The pictures of a batch: one that several examples show is opened and corrupted once, and is one object."""

    pictures: dict[Hashable, Image] = field(default_factory=dict)
    sources: list[ImageSource] = field(default_factory=list)
    """What was opened: as long as it is held, no other open picture has its id, which is its key."""

    def get(self, key: Hashable, make: Callable[[], Image]) -> Image:
        """Returns the picture of that key, made where it is not there."""
        if key not in self.pictures:
            self.pictures[key] = make()
        return self.pictures[key]


def draw_region(region: Region, size: tuple[int, int], *, max_pixels: int) -> Bool[np.ndarray, "h w"]:
    """Returns where a picture of (width, height) `size` is corrupted.

    Raises RowError for a mask of another size, and for a box that is empty or reaches beyond the picture.
    """
    width, height = size
    if not isinstance(region, tuple):
        mask = open_image(region, max_pixels=max_pixels).convert("L")
        if mask.size != size:
            raise RowError(
                f"a mask is {mask.width} × {mask.height} pixels and its image {width} × {height}: give one of the "
                "image's size"
            )
        return np.asarray(mask) >= 128
    drawn = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in region:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise RowError(
                f"the box [{left:g}, {top:g}, {right:g}, {bottom:g}] is none of an image of {width} × {height} pixels: "
                "write [left, top, right, bottom] in pixels"
            )
        drawn[round(top) : round(bottom), round(left) : round(right)] = True
    return drawn


@dataclass(frozen=True)
class Preparer:
    """Opens, corrupts, renders and tokenises. A pure function of the item: workers and ranks agree."""

    renderer: Renderer
    cells: tuple[Cell, ...]
    corruptions: Mapping[str, Corruption]
    """How every image version but the original and none is made, by version."""
    seed: int = 0
    corruption_draw: str = "row"
    """`row`: each row's corruption is drawn for itself. `picture`: rows with the same picture have the same."""
    corrupted_images: str = "all"
    """`all`, or `demonstrations`: all but the last image of a row, which the question is about."""
    image_terms: str = "required"
    """`required`: a row without images is faulty where a cell has a corrupted one. `where_possible`: terms with such
    cells pass it over."""
    crop_space: str = "image"
    """`image` corrupts the picture here; `processed` leaves the version `corrupted` to the collator, after the image
    processor."""
    max_image_pixels: int = 100_000_000
    suppressed: frozenset[int] = frozenset()
    """Tokens that the model's generation config suppresses: no answer can have them."""
    comparisons: Comparisons = PAIR
    """Cells that have to differ in a row, image or response."""
    needs_rejected_images: bool = False
    """Whether a row without images of its own for the version `corrupted` is a faulty one."""
    corrupts_equal_answers_only: bool = False
    """Whether the version `corrupted` is the image itself where chosen and rejected differ."""

    def __call__(self, item: Item, opened: Opened | None = None) -> PreparedExample:
        """Returns the prepared example. Raises RowError, with the row's source, for one that cannot be trained on."""
        return self.open(item, self.render(item), opened)

    def render(self, item: Item) -> dict[bool, PromptText]:
        """Returns the texts of a row with (True) and without (False) images, those that cells need; opens no image.

        Raises RowError, with the row's source, for a row whose text or columns cannot be trained on.
        """
        example, responses = item.example, response_names(self.cells)
        self.validate(example)
        with named_source(example.source):
            return {
                with_images: self.renderer.render(example, responses, with_images=with_images)
                for with_images in {version != NO_IMAGE for version in image_versions(self.cells)}
            }

    def open(self, item: Item, rendered: Mapping[bool, PromptText], opened: Opened | None = None) -> PreparedExample:
        """Opens and corrupts the images of a row that was rendered, and tokenises its answers. Raises RowError.

        `opened` are the pictures of the batch that the row is for.
        """
        with named_source(item.example.source):
            return self._prepare(item, rendered, Opened() if opened is None else opened)

    def make_images(self, item: Item, version: str, opened: Opened | None = None) -> tuple[Image, ...]:
        """Returns the images that an item has for a version, opened, and corrupted where a corruption makes them.

        Raises RowError, with the row's source, for images that cannot be opened or corrupted.
        """
        found = Opened() if opened is None else opened
        with named_source(item.example.source):
            return self._images(item, self._open(item.example.images, found), version, found)

    def is_passed_over(self, example: PreferenceExample) -> bool:
        """Returns whether terms with corrupted images pass a row over."""
        return self.image_terms == "where_possible" and not example.images

    def list_comparisons(self, example: PreferenceExample) -> Comparisons:
        """Returns the comparisons of cells that are prepared, and that a row can bear."""
        pairs = (pair for pair in self.comparisons if set(pair) <= set(self.cells))
        if not self.is_passed_over(example):
            return tuple(pairs)
        return tuple(pair for pair in pairs if not (any(map(needs_image, pair)) or compares_images(*pair)))

    def validate(self, example: PreferenceExample) -> None:
        """Raises RowError, with the row's source, for a row whose texts and columns cannot be trained on."""
        validate_example(example, responses=response_names(self.cells), comparisons=self.list_comparisons(example))
        if self.needs_rejected_images and not example.rejected_images and not self.is_passed_over(example):
            raise RowError(
                "the objective ranks against images of the dataset (rejected_images), and the row has none: add the "
                "column, or take an objective for corrupted images, such as mdpo in place of mfpo, and dpo_conditional "
                "in place of rdpo",
                source=example.source,
            )

    def find_images(self, example: PreferenceExample, version: str) -> tuple[ImageSource, ...] | None:
        """Returns the images that a row itself has for a version, None where a corruption makes them."""
        if version == NO_IMAGE:
            return ()
        if version == ORIGINAL:
            return example.images
        if version != CORRUPTED:
            return None
        if example.rejected_images:
            return example.rejected_images
        is_corrupted = example.is_corrupted
        if is_corrupted is None and self.corrupts_equal_answers_only:
            one, other = (plain_text(example.responses[name]).strip() for name in (CHOSEN, REJECTED))
            is_corrupted = one == other
        return example.images if is_corrupted is False else None

    def _prepare(self, item: Item, rendered: Mapping[bool, PromptText], opened: Opened) -> PreparedExample:
        versions, originals = image_versions(self.cells), self._open(item.example.images, opened)
        # Answers are the same under every image; they are tokenised after the prompt that has the images, if any has.
        prompt = rendered[max(rendered)]
        answers = {name: self.renderer.answer_ids(prompt.prompt, text) for name, text in prompt.answers.items()}
        for name, ids in answers.items():
            if not ids:
                raise RowError(f"the answer {name!r} has no tokens")
            if found := self.suppressed.intersection(ids):
                token = self.renderer.tokenizer.convert_ids_to_tokens(min(found))
                raise RowError(
                    f"the answer {name!r} holds the token {token!r}, which the model's generation_config.json "
                    "suppresses (suppress_tokens): to the model that answer is impossible; take it out of the text"
                )
        contexts = {
            version: Context(
                rendered[version != NO_IMAGE].prompt, self._images(item, originals, version, opened), version
            )
            for version in versions
        }
        return PreparedExample(item, contexts, answers)

    def _open(self, sources: tuple[ImageSource, ...], opened: Opened) -> tuple[Image, ...]:
        make = partial(open_image, max_pixels=self.max_image_pixels)
        opened.sources.extend(sources)
        return tuple(opened.get(_key_of(source), partial(make, source)) for source in sources)

    def _images(self, item: Item, originals: tuple[Image, ...], version: str, opened: Opened) -> tuple[Image, ...]:
        found = self.find_images(item.example, version)
        if found is not None:
            return originals if found is item.example.images else self._open(found, opened)
        if not originals and self.is_passed_over(item.example):
            return ()
        if not originals:
            raise RowError(
                f"the objective needs the image version {version!r} and the row has no image: add one, remove the row, "
                "or set image_terms: where_possible, which trains the other terms on it"
            )
        if version == CORRUPTED and self.crop_space == "processed":
            return originals
        return tuple(
            self._corrupt(item, place, image, version, opened) if self.is_aimed_at(item.example, place) else image
            for place, image in enumerate(originals)
        )

    def _corrupt(self, item: Item, place: int, image: Image, version: str, opened: Opened) -> Image:
        corruption = self.corruptions[version]
        other = None
        if corruption.needs_other_image:
            if not item.other_images:
                raise RowError("the corruption shows another example's image, and no other example has one")
            other = self._open((item.other_images[place],), opened)[0]
        region = self._region(item.example, place, image) if corruption.needs_region else None
        drawn_for = self.name_draw(item.example, place)

        def make() -> Image:
            return corrupt_image(
                corruption,
                image,
                run_seed=self.seed,
                example_id=drawn_for,
                image_index=place,
                epoch=item.epoch,
                other=other,
                region=region,
            )

        if region is not None:
            return make()
        return opened.get((version, id(image), id(other), drawn_for, place, item.epoch), make)

    def name_draw(self, example: PreferenceExample, place: int) -> str:
        """Returns what a corruption of an image is drawn for: the row's id, or the picture, by its content.

        Raises RowError for an image that cannot be read.
        """
        return example.id if self.corruption_draw == "row" else digest_image(example.images[place])

    def is_aimed_at(self, example: PreferenceExample, place: int) -> bool:
        """Returns whether a corruption changes this image of a row."""
        return self.corrupted_images == "all" or place + 1 < len(example.images)

    def _region(self, example: PreferenceExample, place: int, image: Image) -> Bool[np.ndarray, "h w"]:
        if len(example.regions) != len(example.images):
            raise RowError(
                f"the corruption changes regions of {len(example.images)} images, and the row marks them in "
                f"{len(example.regions)}: add a column `mask` (or `masks`) with an image of the picture's size for "
                "each, or `boxes` of [left, top, right, bottom]"
            )
        return draw_region(example.regions[place], image.size, max_pixels=self.max_image_pixels)


def _key_of(source: ImageSource) -> Hashable:
    """Returns what is equal for equal sources: the path or the encoded bytes; of an open picture, the object."""
    return id(source) if isinstance(source, Image) else str(source) if isinstance(source, Path) else source
