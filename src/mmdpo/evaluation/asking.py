"""Answers from a model to the items of a benchmark: which are asked, with which picture, and what is kept of them.

Every process appends to a file of its own, rank 0 to answers.jsonl; when all are done rank 0 makes one file of them, in
the order of the benchmark. Answers that are there already are not asked for again, and have to be made like the rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, Tools
from mmdpo.benchmarks.evaluate import SUFFIX
from mmdpo.benchmarks.reading import EvaluationError, Row, read_rows
from mmdpo.benchmarks.result_folder import ANSWERS, check_folder
from mmdpo.benchmarks.tasks import Benchmark
from mmdpo.evaluation.options import EvaluationOptions, choose_suffix, make_settings
from mmdpo.files import printable, to_json, write_rows
from mmdpo.folders import hold_folder, make_folder
from mmdpo.generation.endpoint import BudgetSpentError, RefusedError
from mmdpo.generation.questions import (
    INCIDENTAL,
    Answerer,
    GeneratedAnswer,
    GenerationSettings,
    LazyImage,
    Processes,
    Question,
)
from mmdpo.line_file import LineFile, mend_last_line

IMAGE_FOLDERS = ("images", "image", "val2014", ".")
"""Where pictures are looked for in a benchmark's folder if nobody says."""
_SHOWN = 5
_PART = "answers.part-{}.jsonl"

FindImage: TypeAlias = "Callable[[BenchmarkItem], LazyImage | None]"


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    path: Path
    items: int
    answered: int
    stopped: str
    """Why it ended before all were answered that should be; empty if it did not."""
    is_main: bool
    """Whether this is rank 0, which scores them."""


def answer_benchmark(
    benchmark: Benchmark, data_dir: Path, options: EvaluationOptions, tools: Tools, answerer: Answerer
) -> Outcome:
    """Asks a model as the options say. `data_dir` is the benchmark's own folder.

    Without `answers_only` made-up answers are scored first by `tools`, which have no judge, so that a tool that is not
    installed is found before a model answers for hours.
    """
    settings = make_settings(benchmark, options.asking)
    suffix = choose_suffix(benchmark, options.asking.prompt_suffix)
    parts = benchmark.suffixed_parts
    items = tuple(
        replace(item, prompt=item.prompt + suffix) if suffix and (not parts or item.part in parts) else item
        for item in benchmark.read_items(data_dir, tools)
    )
    if not options.asking.answers_only and not benchmark.needs_judge:
        score = benchmark.make_scorer(data_dir, tools)
        for item in {item.part: item for item in items}.values():
            score(item, "There is a dog on the table.")
    chosen = choose_items(items, options.asking.limit)
    finder = make_image_finder(benchmark, items, data_dir, options.asking.image_dir)
    asked_with = {SUFFIX: suffix} if suffix else {}
    return answer_items(benchmark, items, chosen, finder, answerer, settings, options.out, asked_with)


def answer_items(
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    chosen: Sequence[BenchmarkItem],
    find_image: FindImage,
    answerer: Answerer,
    settings: GenerationSettings,
    folder: Path,
    asked_with: Mapping[str, Any] | None = None,
) -> Outcome:
    """Asks a model the `chosen` of a benchmark's items, but for those that `folder` holds an answer to already.

    `asked_with` is what the questions were changed by, which stands beside the settings of each answer.

    Each answer is on disk before the next one is waited for. An error ends the run with the answers kept; a spent
    budget ends it without one. Raises FolderInUseError where another run writes into the folder, EvaluationError for
    missing pictures or answers that were made differently, UnusableFileError where the disk takes no more.
    """
    processes, stopped = answerer.processes, ""
    made_by = settings.describe() | dict(asked_with or {}) | dict(answerer.describe())
    make_folder(folder)
    with hold_folder(folder) if processes.rank == 0 else nullcontext():
        log = AnswerLog(folder, benchmark.name, items, made_by, processes)
        waiting = [Question(item.id, item.prompt, find_image(item)) for item in chosen if item.id not in log]
        check_images(waiting)
        if waiting:
            stopped = _ask(log, waiting[processes.rank :: processes.count], answerer, settings)
        log.merge()
    answered = sum(item.id in log for item in items)
    return Outcome(log.path, len(items), answered, stopped, is_main=processes.rank == 0)


def _ask(log: AnswerLog, questions: Sequence[Question], answerer: Answerer, settings: GenerationSettings) -> str:
    """Asks and keeps; returns why it ended early, if a budget ended it."""
    shown = None if answerer.processes.rank == 0 else True  # None: where there is a terminal
    log.lines.open()  # before an answer is paid for
    try:
        with tqdm(total=len(questions), desc=f"{log.benchmark} answers", unit="answer", disable=shown) as bar:
            for answer in answerer.answer(questions, settings):
                log.append(answer)
                bar.update()
    except BudgetSpentError as error:
        return str(error)
    except RefusedError as error:
        others = printable(f"mmdpo eval {log.benchmark} --answers {log.path} --out {log.folder} --partial")
        raise RefusedError(f"{error}. The same command asks again; {others} scores the others") from error
    except BaseException:
        if log.lines.written:
            kept = f"{log.lines.written:,} of {len(questions):,} answers were added to {log.folder} and are kept"
            print(printable(f"{kept}; the same command resumes there"), file=sys.stderr)
        raise
    finally:
        log.lines.close()
    return ""


def choose_items(items: Sequence[BenchmarkItem], limit: int | None) -> tuple[BenchmarkItem, ...]:
    """Returns the first `limit` items of every part, all if it is None."""
    if limit is None:
        return tuple(items)
    kept = {item.id for members in BenchmarkItems.build(items).parts.values() for item in members[:limit]}
    return tuple(item for item in items if item.id in kept)


def make_image_finder(
    benchmark: Benchmark, items: Sequence[BenchmarkItem], data_dir: Path, image_dir: Path | None
) -> FindImage:
    """Returns where the picture of an item is: drawn by the benchmark, or a file of `image_dir`.

    Unless `image_dir` is given it is the folder of `IMAGE_FOLDERS` in `data_dir` that holds the first picture. Raises
    EvaluationError for an `image_dir` that is no folder, or is given for pictures that are drawn.
    """
    if benchmark.draw_image is not None:
        if image_dir is not None:
            raise EvaluationError(f"--image_dir: {benchmark.name} draws its pictures; leave it out")
        return partial(partial, benchmark.draw_image)  # drawn where it is needed, in a worker for instance
    if image_dir is not None and not image_dir.is_dir():
        raise EvaluationError(f"--image_dir {image_dir}: no such folder")
    places = [image_dir] if image_dir is not None else [data_dir / name for name in IMAGE_FOLDERS]
    first = next((item.image for item in items if item.image), "")
    folder = next((place for place in places if (place / first).is_file()), places[0])
    return lambda item: folder / item.image if item.image else None


def check_images(questions: Sequence[Question]) -> None:
    """Raises EvaluationError, which lists the first, if pictures are missing: before a model is loaded."""
    paths = dict.fromkeys(question.image for question in questions if isinstance(question.image, Path))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = ", ".join(path.name for path in missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise EvaluationError(
            f"{missing[0].parent}: {len(missing):,} of {len(paths):,} pictures are missing ({shown}); put them there, "
            "or name the folder that holds them (--image_dir)"
        )


# -- the answers on disk ----------------------------------------------------------------------------------------------


class AnswerLog:
    """The answers of one run to one benchmark."""

    def __init__(
        self,
        folder: Path,
        benchmark: str,
        items: Sequence[BenchmarkItem],
        generation: Mapping[str, Any],
        processes: Processes,
    ) -> None:
        """Reads what is there; all processes have to do so at once.

        `generation` is all that an answer depends on; it is written beside each. Raises EvaluationError, with file and
        line, for answers of another benchmark, another model or other settings.
        """
        self.folder, self.benchmark, self.path = folder, benchmark, folder / ANSWERS
        self._items = {item.id: item for item in items}
        self._generation: dict[str, Any] = json.loads(json.dumps(dict(generation)))
        self._processes = processes
        if processes.rank == 0:
            check_folder(folder, benchmark)
            make_folder(folder)
            for path in self._files():
                mend_last_line(path)
        processes.wait()
        self._rows = self._read()
        processes.wait()
        self.lines = LineFile(self.path if processes.rank == 0 else folder / _PART.format(processes.rank))

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def append(self, answer: GeneratedAnswer) -> None:
        """Adds an answer; raises UnusableFileError where the disk takes no more."""
        item = self._items[answer.id]
        row: dict[str, Any] = {"id": item.id, "benchmark": self.benchmark, "prompt": item.prompt, "image": item.image}
        row |= {"answer": answer.text, "generation": self._generation, "details": dict(answer.details)}
        self.lines.append(row)
        self._rows[item.id] = row

    def merge(self) -> None:
        """Waits for all processes; the first makes one file of their answers, in the benchmark's order."""
        self.lines.close()
        self._processes.wait()
        if self._processes.rank > 0:
            return
        self._rows |= self._read()
        rows = [self._rows[item_id] for item_id in self._items if item_id in self._rows]
        if rows:
            write_rows(self.path, rows)
        for path in self._files():
            if path != self.path:
                path.unlink()

    def _files(self) -> list[Path]:
        main = [self.path] if self.path.exists() else []
        return main + sorted(self.folder.glob(_PART.format("*")))

    def _read(self) -> dict[str, dict[str, Any]]:
        """Returns the rows on disk by item."""
        rows = {}
        for row in (row for path in self._files() for row in read_rows(path)):
            item = self._items.get(str(row.values.get("id")))
            if row.values.get("benchmark") != self.benchmark or item is None:
                raise EvaluationError(
                    f"{row.place}: not an answer that a model gave to an item of {self.benchmark}; choose another --out"
                )
            self._compare(row, {"prompt": item.prompt, "image": item.image, **self._generation})
            rows[item.id] = dict(row.values)
        return rows

    def _compare(self, row: Row, now: Mapping[str, Any]) -> None:
        made = row.values.get("generation")
        kept = {name: row.values.get(name) for name in ("prompt", "image")} | (made if isinstance(made, dict) else {})
        names = [name for name in {**kept, **now} if name not in INCIDENTAL]
        differing = [name for name in names if kept.get(name) != now.get(name)]
        if differing:
            each = (f"{name} was {to_json(kept.get(name))} and is {to_json(now.get(name))}" for name in differing)
            shown = "; ".join(each)
            raise EvaluationError(
                f"{row.place}: this answer was made differently, and a result stands on answers of one kind: {shown}. "
                "Give the same settings, or choose another --out"
            )
