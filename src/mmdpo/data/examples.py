"""Preference examples by the name of what holds them: an embedded world, a file, a folder or a dataset of the hub."""

from __future__ import annotations

import logging
from pathlib import Path

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.read import read_dataset
from mmdpo.keys import RecipeError
from mmdpo.world import find_world

logger = logging.getLogger(__name__)

WORLD_SPLITS = {"train": (768, "preference"), "test": (256, "held-out")}
"""Number of pairs and purpose of each split of an embedded world."""
_ROWS_LOOKED_AT = 32
"""Of a dataset whose images start from a root, to see whether they do."""


def read_examples(
    name: str,
    split: str,
    *,
    config: str | None = None,
    format: str = "auto",
    image_root: str | None = None,
    seed: int = 0,
) -> PreferenceDataset:
    """Returns a split of an embedded world (`world`), a file, a folder or a hub dataset; warns of a useless root."""
    world = find_world(name)
    if world is None:
        found = read_dataset(name, split=split, config=config, format=format, image_root=image_root)
        if image_root is not None and not _uses_root(found):
            logger.warning(
                "%s: image_root %s is not used, since no image of the first %d rows is a relative path",
                name, image_root, min(len(found), _ROWS_LOOKED_AT),
            )  # fmt: skip
        return found
    from mmdpo.world.pairs import make_pairs

    if split not in WORLD_SPLITS:
        raise RecipeError(f"an embedded world has the splits {' and '.join(WORLD_SPLITS)}, not {split!r}")
    if config is not None:
        raise RecipeError(f"dataset_config is {config!r}, and an embedded world has none: leave dataset_config out")
    if image_root is not None:
        logger.warning("%s: image_root %s is not used, since an embedded world draws its images", name, image_root)
    count, purpose = WORLD_SPLITS[split]
    return PreferenceDataset.from_rows(make_pairs(count, seed, purpose=purpose, world=world), name=f"{name}[{split}]")


def _uses_root(dataset: PreferenceDataset) -> bool:
    """Returns whether an image of the first rows lies below the root that is given; a faulty row may."""
    root = Path(dataset.image_root or "")
    for place in range(min(len(dataset), _ROWS_LOOKED_AT)):
        try:
            example = dataset[place]
        except Exception:  # odd rows raise nearly anything, and are named where they are checked
            return True
        images = (*example.images, *example.rejected_images, *example.regions)
        if any(isinstance(image, str | Path) and Path(image).is_relative_to(root) for image in images):
            return True
    return False
