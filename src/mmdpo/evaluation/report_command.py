"""`mmdpo report RUN…`: one page about any mix of runs, results, studies and diagnoses.

The page is built by `mmdpo.report`, which knows files alone; what knows benchmarks and corruptions is handed in here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdpo.world.worlds import find_world

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmdpo.corruption import Corruption
    from mmdpo.report.sections.evaluation import Pictures
    from mmdpo.world.worlds import World


def add_report_verb(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `report`, which sets `verb`, a function of the options that returns the exit status."""
    parser = verbs.add_parser("report", help="one self-contained HTML page about runs, results, studies, diagnoses")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders that mmdpo wrote")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument("--image_dir", type=Path, metavar="FOLDER", help="where the images of benchmarks lie")
    parser.set_defaults(verb=_run)


def _run(options: argparse.Namespace) -> int:
    from mmdpo.report.page import write_report

    if options.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {options.out}: name the page, such as report.html")
    if options.image_dir is not None and not options.image_dir.is_dir():
        raise ValueError(f"--image_dir {options.image_dir}: no such folder")
    pictures = make_pictures(options.runs, options.image_dir)
    page = write_report(options.runs, options.out, compare=compare_results, pictures=pictures)
    print(f"Report: {page}; figures and tables: {page.with_name(f'{page.stem}_files')}")
    return 0


def compare_results(folders: Sequence[Path], labels: Sequence[str]) -> Mapping[str, Any]:
    """Returns the content of a compare.json; raises EvaluationError as `compare_runs` does."""
    from mmdpo.evaluation.compare import compare_runs

    return asdict(compare_runs(folders, labels=labels))


def make_pictures(runs: Sequence[Path], image_dir: Path | None) -> Pictures:
    """Returns where the pictures of benchmarks come from, and how the first of the runs that says so corrupts them."""
    from mmdpo.report.sections.evaluation import Pictures

    found = next((recipe for run in runs if (recipe := _read_corruption(run)) is not None), None)
    find = partial(find_picture, image_dir)
    return Pictures(find) if found is None else Pictures(find, partial(_corrupt, *found))


def find_picture(image_dir: Path | None, benchmark: str, item_id: str, image: str) -> Path | Image | None:
    """Returns the picture of an item: drawn, for an embedded world; else a file of `image_dir` or the downloads."""
    world = find_world(benchmark)
    if world is not None:
        return _draw_scene(world, item_id)
    for folder in (image_dir,) if image_dir is not None else _image_folders(benchmark):
        if image and (folder / image).is_file():
            return folder / image
    return None


@cache
def _image_folders(benchmark: str) -> tuple[Path, ...]:
    from mmdpo.evaluation.answer import IMAGE_FOLDERS
    from mmdpo.evaluation.download import default_folder

    return tuple(default_folder() / benchmark / name for name in IMAGE_FOLDERS)


def _draw_scene(world: World, item_id: str) -> Image | None:
    """Paints a test scene, whose id is `test-SEED-NUMBER`."""
    from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, render, sample_scenes

    purpose, _, place = item_id.partition("-")
    seed, _, number = place.partition("-")
    if purpose != "test" or not seed.isdigit() or not number.isdigit():
        return None
    return render(sample_scenes(int(number) + 1, int(seed), BALANCED_CO_OCCURRENCE, "test", world)[-1])


def _read_corruption(run: Path) -> tuple[Corruption, int] | None:
    """Returns the corruption of a run's recipe and its seed; None for a recipe that cannot be read or has none."""
    import yaml

    from mmdpo.corruption import load

    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        corruption = load(recipe["corruption"]).with_options(**(recipe.get("corruption_options") or {}))
        return None if corruption.needs_other_image else (corruption, int(recipe.get("seed", 0)))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _corrupt(corruption: Corruption, seed: int, picture: Path | Image, item_id: str) -> Image | None:
    from mmdpo.corruption import corrupt_image
    from mmdpo.data.images import open_image
    from mmdpo.examples import RowError

    try:
        opened = open_image(picture)
    except RowError:
        return None
    return corrupt_image(corruption, opened, run_seed=seed, example_id=item_id, image_index=0)
