"""Answers from a model to the items of a benchmark: which are asked, with which picture, and what is kept of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tqdm import tqdm

from mmdpo.benchmarks.reading import EvaluationError, make_folder
from mmdpo.benchmarks.records import Item, Items, Tools
from mmdpo.benchmarks.tasks import Benchmark
from mmdpo.evaluation.answer_log import AnswerLog
from mmdpo.folder_lock import hold_folder
from mmdpo.generation.endpoint import BudgetSpentError
from mmdpo.generation.records import Answerer, GenerationSettings, LazyImage, Question
from mmdpo.printable import printable

IMAGE_FOLDERS = ("images", "image", "val2014", ".")
"""Where pictures are looked for in a benchmark's folder if nobody says."""
_SHOWN = 5

FindImage: TypeAlias = Callable[[Item], LazyImage]


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    path: Path
    """The file of the answers."""
    items: int
    """Items of the benchmark."""
    answered: int
    stopped: str
    """Why it ended before all were answered that should be; empty if it did not."""
    is_main: bool
    """Whether this is the process that goes on with them."""

    @property
    def is_partial(self) -> bool:
        """Whether items have no answer."""
        return self.answered < self.items


def answer_items(
    benchmark: Benchmark,
    items: Sequence[Item],
    chosen: Sequence[Item],
    find_image: FindImage,
    answerer: Answerer,
    settings: GenerationSettings,
    folder: Path,
) -> Outcome:
    """Asks a model the `chosen` of a benchmark's items, but for those that `folder` holds an answer to already.

    Each answer is on disk before the next one is waited for. An error ends the run with the answers kept; a spent
    budget ends it without one.

    Raises:
        FolderInUseError: another run writes into the folder.
        EvaluationError: pictures are missing, the folder holds answers that were made differently, or the disk is full.
    """
    processes, stopped = answerer.processes, ""
    make_folder(folder)
    with hold_folder(folder) if processes.rank == 0 else nullcontext():
        log = AnswerLog(folder, benchmark.name, items, asdict(settings) | dict(answerer.describe()), processes)
        waiting = [item for item in chosen if item.id not in log]
        check_images((item, find_image(item)) for item in waiting)
        if waiting:
            share = waiting[processes.rank :: processes.count]
            questions = [Question(item.id, item.prompt, find_image(item)) for item in share]
            stopped = _ask(log, questions, answerer, settings)
        log.merge()
    answered = sum(item.id in log for item in items)
    return Outcome(log.path, len(items), answered, stopped, is_main=processes.rank == 0)


def _ask(log: AnswerLog, questions: Sequence[Question], answerer: Answerer, settings: GenerationSettings) -> str:
    """Asks and keeps; returns why it ended early, if a budget ended it."""
    shown = None if answerer.processes.rank == 0 else True  # None: where there is a terminal
    log.open()
    try:
        with tqdm(total=len(questions), desc=f"{log.benchmark} answers", unit="answer", disable=shown) as bar:
            for answer in answerer.answer(questions, settings):
                log.append(answer)
                bar.update()
    except BudgetSpentError as error:
        return str(error)
    except BaseException:
        if log.written:
            kept = f"{log.written:,} of {len(questions):,} answers were added to {log.folder} and are kept"
            print(printable(f"{kept}; the same command goes on from there"), file=sys.stderr)
        raise
    finally:
        log.close()
    return ""


def choose_items(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Returns the first `limit` items of every part, all if it is None. Raises ValueError for a limit below 1."""
    if limit is None:
        return tuple(items)
    if limit < 1:
        raise ValueError(f"--limit is {limit}; give 1 or more")
    kept = {item.id for members in Items.build(items).parts.values() for item in members[:limit]}
    return tuple(item for item in items if item.id in kept)


def make_image_finder(
    benchmark: Benchmark, items: Sequence[Item], data_dir: Path, image_dir: str | Path | None
) -> FindImage:
    """Returns where the picture of an item is: drawn by the benchmark, or a file of `image_dir`.

    Unless `image_dir` is given it is the folder of `IMAGE_FOLDERS` in `data_dir` that holds the first picture. Raises
    EvaluationError for an `image_dir` that is no folder, or is given for pictures that are drawn.
    """
    if benchmark.draw_image is not None:
        if image_dir is not None:
            raise EvaluationError(f"--image_dir: {benchmark.name} draws its pictures; leave it out")
        return partial(partial, benchmark.draw_image)  # drawn where it is needed, in a worker for instance
    if image_dir is not None and not Path(image_dir).is_dir():
        raise EvaluationError(f"--image_dir {image_dir}: no such folder")
    places = [Path(image_dir)] if image_dir is not None else [data_dir / name for name in IMAGE_FOLDERS]
    folder = next((place for place in places if (place / items[0].image).is_file()), places[0])
    return lambda item: folder / item.image


def check_images(found: Iterable[tuple[Item, LazyImage]]) -> None:
    """Raises EvaluationError, which lists the first, if pictures are missing: before a model is loaded."""
    paths = dict.fromkeys(image for _, image in found if isinstance(image, Path))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = ", ".join(path.name for path in missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise EvaluationError(
            f"{missing[0].parent}: {len(missing):,} of {len(paths):,} pictures are missing ({shown}); put them there, "
            "or name the folder that holds them (--image_dir)"
        )


def check_scoring(benchmark: Benchmark, items: Sequence[Item], data_dir: Path, tools: Tools) -> None:
    """Scores made-up answers, so that a tool that is not installed is found before a model answers for hours.

    Raises what scoring raises.
    """
    score = benchmark.make_scorer(data_dir, tools)
    for item in {item.part: item for item in items}.values():
        score(item, "There is a dog on the table.")
