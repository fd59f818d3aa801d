"""The pictures of a pair: its images, and corrupted ones as a run would make them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmdpo import corruption as corruptions
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import open_image
from mmdpo.data.items import Item, Items
from mmdpo.data.prepare import Preparer
from mmdpo.files import read_yaml
from mmdpo.objective import build_objective
from mmdpo.records import CORRUPTED, NO_IMAGE, ORIGINAL, PreferenceExample, RowError, image_versions
from mmdpo.report.layout import Thumbnail, make_thumbnail
from mmdpo.report.reading import RECIPE

LONGEST_SIDE = 720
"""Pixels of a picture on the page."""
RUN_SEED = 42
"""Seed of a run that sets none, as in transformers."""


@dataclass(frozen=True)
class HowCorrupted:
    """All that corrupted images depend on beside the rows, in the words of a recipe."""

    corruption: str = "crop_0_20"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = RUN_SEED
    epoch: int = 0
    draw: str = "row"
    aimed: str = "all"
    """`corrupted_images` of a recipe."""
    objective: Any = "mdpo"
    is_cropped_late: bool = False
    """Whether the run crops what its image processor returns (`crop_space: processed`)."""

    def make_preparer(self) -> Preparer:
        """Returns what makes the images; it renders no text. Raises ValueError for options that do not fit."""
        objective = build_objective(self.objective, runs_others=False)
        versions = [name for name in image_versions(objective.cells) if name not in (ORIGINAL, NO_IMAGE, CORRUPTED)]
        made = {CORRUPTED: corruptions.load(self.corruption).with_options(**self.options)}
        no_text: Any = None
        return Preparer(
            no_text,
            objective.cells,
            made | {name: corruptions.load(name) for name in versions},
            self.seed,
            corruption_draw=self.draw,
            corrupted_images=self.aimed,
            image_terms="where_possible",
            corrupts_equal_answers_only=objective.corrupts_equal_answers_only,
        )


def read_options(text: str) -> dict[str, Any]:
    """Returns the options of a corruption that were typed as JSON. Raises ValueError, saying what to write."""
    if not text.strip():
        return {}
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'options are JSON, such as {{"step": 700}}: {error}') from error
    if not isinstance(options, dict):
        raise ValueError('options are a mapping, such as {"step": 700}')
    return options


def read_how(run: Path) -> HowCorrupted | None:
    """Returns how a run of `mmdpo train` corrupts images; None for a folder whose recipe cannot be followed.

    No code is run that a recipe names: somebody else may have written it.
    """
    try:
        recipe = read_yaml(run / RECIPE)
    except (OSError, ValueError):
        return None
    if not isinstance(recipe, dict):
        return None
    default = HowCorrupted()
    how = HowCorrupted(
        corruption=str(recipe.get("corruption") or default.corruption),
        options=recipe.get("corruption_options") or {},
        seed=recipe.get("seed", RUN_SEED),
        draw=str(recipe.get("corruption_draw") or default.draw),
        aimed=str(recipe.get("corrupted_images") or default.aimed),
        objective=recipe.get("objective") or default.objective,
        is_cropped_late=recipe.get("crop_space") == "processed",
    )
    is_ours = how.corruption in corruptions.names() and type(how.seed) is int and isinstance(how.options, dict)
    try:
        if is_ours:
            how.make_preparer()
            return how
    except (ValueError, TypeError):
        pass
    return None


class Shown(NamedTuple):
    """A picture on the page."""

    thumbnail: Thumbnail
    caption: str
    alt: str


class OtherPictures:
    """Draws other rows' pictures for `random_image` as a run on these rows would; looks at all of them once."""

    def __init__(self, dataset: PreferenceDataset, left_out: Collection[int] = ()) -> None:
        self.left_out = set(left_out)
        self._kept = np.setdiff1d(np.arange(len(dataset)), np.asarray(sorted(left_out), dtype=int))
        self._examples = dataset.select(self._kept.tolist())
        self._items: Items | None = None
        self._lock = threading.Lock()
        """Windows ask at once, each with a seed and an epoch of its own."""

    def draw(self, index: int, how: HowCorrupted, tell: Callable[[int, int], None]) -> tuple[Any, ...]:
        """Returns one picture for each of a row's own. Raises ValueError where there is no other row or picture."""
        place = int(np.searchsorted(self._kept, index))
        if place == len(self._kept) or self._kept[place] != index:
            raise ValueError("the row is left out, so that no other row's picture is drawn for it")
        with self._lock:
            if self._items is None:
                self._items = Items(_Counted(self._examples, tell), seed=how.seed, draw_others=True, per_epoch=True)
            self._items.seed = how.seed
            self._items.set_epoch(how.epoch)
            return self._items[place].other_images


@dataclass(frozen=True)
class _Counted(Sequence[PreferenceExample]):
    """Examples, which tell how many of them were looked at."""

    examples: Any
    tell: Callable[[int, int], None]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        if index % 500 == 0:
            self.tell(index, len(self.examples))
        return self.examples[index]


def make_pictures(
    example: PreferenceExample,
    index: int,
    how: HowCorrupted,
    find_others: Callable[[], OtherPictures],
    tell: Callable[[int, int], None] = lambda done, rows: None,
) -> list[Shown]:
    """Returns the images of a row, then those of each corrupted version that the objective has.

    What cannot be made says why. `find_others` is asked where a corruption shows other rows' pictures.
    """
    row = example.source.rpartition(", ")[2]
    several = len(example.images) > 1

    def name(place: int) -> str:
        return f" {place + 1}" if several else ""

    shown = [
        _show(image, f"image{name(place)}", f"Image{name(place)} of {row}")
        for place, image in enumerate(example.images)
    ]
    if not example.images:
        return shown
    try:
        preparer = how.make_preparer()
        needs_others = any(made.needs_other_image for made in preparer.corruptions.values())
        drawn = find_others().draw(index, how, tell) if needs_others else ()
        item = Item(example, index, how.epoch, other_images=drawn)
        for version, made in preparer.corruptions.items():
            own = preparer.find_images(example, version)
            by = made.name if own is None else "the image itself" if own is example.images else "of the dataset"
            for place, image in enumerate(preparer.make_images(item, version)):
                caption = f"corrupted{name(place)}: {by}"
                shown.append(_show(image, caption, f"Image{name(place)} of {row}, corrupted ({by})"))
    except (ValueError, TypeError) as error:
        problem = error.problem if isinstance(error, RowError) else str(error)
        shown.append(Shown(Thumbnail(why=f" is not made: {problem}"), "The corrupted image", ""))
    return shown


def _show(source: Any, caption: str, alt: str) -> Shown:
    try:
        image = open_image(source)
    except RowError as error:
        return Shown(Thumbnail(why=f" is not shown: {error.problem}"), caption, alt)
    return Shown(make_thumbnail(image, LONGEST_SIDE), f"{caption}, {image.width} × {image.height}", alt)
