"""What a report is handed from the rooms above it: the pictures of benchmarks, corrupted too, and comparisons.

The page is built by `mmdpo.report`, which knows files and neither benchmarks nor corruptions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdpo import corruption as corruptions
from mmdpo.benchmarks.tasks import load, names
from mmdpo.data.images import open_image
from mmdpo.evaluation.asking import IMAGE_FOLDERS
from mmdpo.evaluation.compare import compare_runs
from mmdpo.evaluation.download import default_folder
from mmdpo.evaluation.paper_table import COLUMNS
from mmdpo.evaluation.suite import set_beside_paper
from mmdpo.files import Unshown, find_inside, read_yaml
from mmdpo.report.evaluated import ItemPictures
from mmdpo.report.evaluation import Benchmarks
from mmdpo.report.layout import Picture, open_picture
from mmdpo.world import World, find_world
from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, render, sample_scenes

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmdpo.corruption import Corruption

SCENE_ID = re.compile("test-([0-9]{1,9})-([0-9]{1,9})")
MOST_SCENES = 5_000
"""Scenes of a seed that are painted: each takes those before it."""


def know_benchmarks() -> Benchmarks:
    """Returns what a page is told of benchmarks: differences, main metrics, and the paper's Table 1 beside results."""
    return Benchmarks(_compare, _list_main, set_beside_paper)


def _compare(folders: Sequence[Path], labels: Sequence[str]) -> Mapping[str, Any]:
    return asdict(compare_runs(folders, labels=labels))


def _list_main(benchmark: str, measured: Collection[str]) -> tuple[str, ...]:
    """Returns the metrics of the paper's table, or what the benchmark names as its own; nothing of an unknown one."""
    if benchmark not in names():
        return ()
    columns = ([metric for metric in column.metrics if metric in measured] for column in COLUMNS)
    of_paper = tuple(found[0] for found in columns if found and found[0].startswith(f"{benchmark}/"))
    return of_paper or load(benchmark).headline


def make_pictures(runs: Sequence[Path], image_dir: Path | None) -> ItemPictures:
    """Returns where the pictures of benchmarks come from, and how the first of the runs that says so corrupts them."""
    find, notes = partial(find_picture, image_dir), list[str]()
    for run in runs:
        try:
            found = _read_corruption(run)
        except ValueError as error:
            notes.append(f"{run}: corrupted images are not shown: {error}")
            continue
        if found is not None:
            return ItemPictures(find, partial(_corrupt, *found), tuple(notes))
    return ItemPictures(find, notes=tuple(notes))


def find_picture(image_dir: Path | None, benchmark: str, item_id: str, image: str) -> Picture | None:
    """Returns the picture of an item: drawn, for an embedded world; else a file of `image_dir` or the downloads.

    A name that leads out of these folders is refused: it comes from the folder that is reported.
    """
    world = find_world(benchmark)
    if world is not None:
        return _draw_scene(world, item_id)
    found: Picture | None = None
    for folder in (image_dir,) if image_dir is not None else _image_folders(benchmark):
        found = find_inside(folder, image) if image else None
        if isinstance(found, Unshown) or (found is not None and found.exists()):
            return found
    return None


@cache
def _image_folders(benchmark: str) -> tuple[Path, ...]:
    if benchmark not in names():
        return ()
    return tuple(default_folder() / load(benchmark).data_name / name for name in IMAGE_FOLDERS)


def _draw_scene(world: World, item_id: str) -> Picture | None:
    """Paints a test scene, whose id is `test-SEED-NUMBER`; scenes are drawn one after the other, up to its number."""
    found = SCENE_ID.fullmatch(item_id)
    if found is None:
        return None
    seed, number = map(int, found.groups())
    if number >= MOST_SCENES:
        return Unshown(f"of a seed's scenes the first {MOST_SCENES:,} are painted")
    return render(sample_scenes(number + 1, seed, BALANCED_CO_OCCURRENCE, "test", world)[-1])


def _read_corruption(run: Path) -> tuple[Corruption, int] | None:
    """Returns the corruption of a run's recipe and its seed; None for a recipe that has none or cannot be read.

    Nothing is imported that the recipe names: whoever wrote the folder is not asked to run code here. Raises ValueError
    for a corruption that is not one of the package's, or with options that it does not take.
    """
    try:
        recipe = read_yaml(run / "recipe.yaml")
    except (OSError, ValueError):
        return None
    if not isinstance(recipe, dict) or recipe.get("corruption") is None:
        return None
    name, options, seed = recipe["corruption"], recipe.get("corruption_options") or {}, recipe.get("seed", 0)
    if name not in corruptions.names():
        raise ValueError(f"its corruption {name!r} is not one of the package's, and no other code is run for a report")
    if not isinstance(options, dict) or not isinstance(seed, int):
        raise ValueError("its corruption_options are no mapping, or its seed is no number")
    corruption = corruptions.load(name).with_options(**options)
    return None if corruption.needs_other_image else (corruption, seed)


def _corrupt(corruption: Corruption, seed: int, picture: Path | Image, item_id: str) -> Picture | None:
    try:
        opened = open_picture(picture) if isinstance(picture, Path) else picture
        return corruptions.corrupt_image(
            corruption, open_image(opened), run_seed=seed, example_id=item_id, image_index=0
        )
    except Exception as error:  # decoders, and a corruption whose options do not fit the picture, raise nearly anything
        return Unshown(f"it cannot be made: {error}")
