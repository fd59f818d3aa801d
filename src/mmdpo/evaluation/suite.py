"""`mmdpo eval suite`: all benchmarks one after the other, and their figures beside the paper's Table 1.

    <out>/<benchmark>/…                  what `mmdpo eval <benchmark>` writes
    <out>/suite.json, suite.md, suite.csv

Each benchmark is run by the function that runs it alone; one that fails is shown as missing, with the reason.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.reading import EvaluationError, make_folder, read_json, to_json, write_whole
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.table1 import COLUMNS, PAPER, SOURCE, Column
from mmdpo.evaluation.terminal import as_text, print_line
from mmdpo.printable import printable
from mmdpo.tables import csv_text
from mmdpo.world.worlds import find_world

logger = logging.getLogger(__name__)

DEFAULT = tuple(name for name in names() if find_world(name) is None)
MISSING = "–"
_OF_JUDGE = ("judge", "judge_model", "judge_url", "judge_replies", "judge_cache")

RunBenchmark = Callable[[str, argparse.Namespace], int]


@dataclass(frozen=True)
class Cell:
    """One figure of the run: as the official scorer prints it, with its 95 % interval."""

    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Suite:
    """What became of all benchmarks."""

    label: str
    """Name of the folder."""
    of: str
    """Whose answers these are."""
    cells: Mapping[str, Cell | None]
    """Header of the column → the figure, None where it is missing."""
    missing: Mapping[str, str]
    """Benchmark → why it has no result."""
    notes: tuple[str, ...]


def run_suite(options: argparse.Namespace, run_benchmark: RunBenchmark) -> int:
    """Runs the benchmarks that the options name; returns 1 if one has no result, else 0.

    Raises ValueError for a benchmark that is none, EvaluationError for a folder of answers that is none.
    """
    chosen = _choose(options)
    results: dict[str, Mapping[str, Any]] = {}
    missing: dict[str, str] = {}
    for name in chosen:
        print(f"\n{name}", flush=True)
        try:
            results[name] = _run_one(name, options, run_benchmark)
        except Exception as error:  # a later benchmark may well work, and hours of answers stand behind it
            logger.debug("%s failed", name, exc_info=True)
            missing[name] = printable(
                f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            )
            print(f"{name} has no result: {missing[name]}", flush=True)
    if _is_main(options) and not options.answers_only:
        suite = summarise(printable(Path(options.out).resolve().name), printable(_whose(options)), results, missing)
        write_suite(suite, results, Path(options.out))
        _print(suite, Path(options.out))
    return 1 if missing else 0


def _choose(options: argparse.Namespace) -> tuple[str, ...]:
    unknown = sorted(set(options.benchmarks or ()) - set(names()))
    if unknown:
        raise ValueError(f"--benchmarks: there is no {', '.join(unknown)}; there are {', '.join(names())}")
    if options.answers is not None and not Path(options.answers).is_dir():
        raise EvaluationError(
            f"--answers {options.answers}: a suite takes a folder, with BENCHMARK.jsonl or BENCHMARK/answers.jsonl each"
        )
    if options.benchmarks:
        return tuple(dict.fromkeys(options.benchmarks))
    return DEFAULT if find_world(options.model) is None else (options.model,)


def _run_one(name: str, options: argparse.Namespace, run_benchmark: RunBenchmark) -> Mapping[str, Any]:
    """Runs one benchmark in a folder of its own; returns its result. Raises whatever it raises."""
    part = argparse.Namespace(**vars(options))
    part.out = str(Path(options.out) / name)
    if options.answers is not None:
        part.answers = str(find_file(Path(options.answers), name, "answers"))
    if options.image_dir is not None:
        part.image_dir = _find_images(Path(options.image_dir), name)
    if load(name).judge_prompt is None:
        for option in _OF_JUDGE:
            setattr(part, option, None)
    elif options.judge_replies is not None and Path(options.judge_replies).is_dir():
        part.judge_replies = str(find_file(Path(options.judge_replies), name, "judge_replies"))
    result = Path(part.out) / "result.json"
    before = result.stat().st_mtime_ns if result.exists() else None
    run_benchmark(name, part)
    if options.answers_only or not _is_main(options):
        return {}
    if not result.exists() or result.stat().st_mtime_ns == before:
        raise EvaluationError("it was answered and not scored, for the reason above")
    content: Mapping[str, Any] = read_json(result)
    return content


def _find_images(folder: Path, name: str) -> str | None:
    """Returns a benchmark's own folder of pictures where there is one; None for pictures that are drawn."""
    if load(name).draw_image is not None:
        return None
    return str(folder / name if (folder / name).is_dir() else folder)


def find_file(folder: Path, name: str, stem: str) -> Path:
    """Returns a benchmark's file in a folder: NAME.jsonl, NAME.json, NAME/stem.jsonl, NAME/stem.json, or NAME itself.

    Raises EvaluationError if there is none.
    """
    places = [folder / f"{name}.jsonl", folder / f"{name}.json"]
    places += [folder / name / f"{stem}.jsonl", folder / name / f"{stem}.json"]
    found = next((place for place in places if place.is_file()), folder / name)
    if not found.exists():
        shown = ", ".join(str(place.relative_to(folder)) for place in places)
        raise EvaluationError(f"{folder}: holds none of {shown}, and no folder {name}")
    return found


def _whose(options: argparse.Namespace) -> str:
    adapter = f" + {options.adapter}" if getattr(options, "adapter", None) else ""
    return f"{options.model}{adapter}" if options.model else f"answers in {options.answers}"


def _is_main(options: argparse.Namespace) -> bool:
    if options.model is None:
        return True
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def summarise(label: str, of: str, results: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]) -> Suite:
    """Puts the results of benchmarks into the columns of Table 1, with what a reader of that row should know."""
    cells = {column.header: _cell(column, results.get(column.benchmark, {})) for column in COLUMNS}
    return Suite(label, of, cells, dict(missing), (f"{label}: {of}", *_explain(results)))


def _cell(column: Column, result: Mapping[str, Any]) -> Cell | None:
    metrics = result.get("metrics", {})
    for name in column.metrics:
        if metrics.get(name, {}).get("value") is not None:
            return Cell(name, *(metrics[name][key] for key in ("value", "low", "high")))
    return None


def _explain(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"The paper's rows: {SOURCE}; one run each, without intervals. Intervals here: 95 %, bootstrap over images."
    for name, result in results.items():
        if result["partial"]:
            yield f"{name} is partial: {'; '.join(result['partial_because'])}"
    if "mmhal" in results:
        yield from _explain_mmhal(results["mmhal"])
    if "object_halbench" in results:
        yield from _explain_object_halbench(results["object_halbench"])
    if "pope" in results:
        values = {rule: _value(results["pope"], f"pope/macro/{rule}", ".3f") for rule in ("accuracy", "f1")}
        shown = ", ".join(f"{rule} {value}" for rule, value in values.items())
        yield f"POPE, which is not in the paper's table, mean of its splits: {shown}."
    if "amber" in results:
        used = results["amber"]["made_by"]
        yield (
            f"AMBER by {used.get('linguistics', 'no language tool')}; similar words by "
            f"{used.get('similarity', 'nothing')}. The official scorer uses NLTK and en_core_web_lg."
        )


def _explain_mmhal(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"MMHal-Bench was rated by {result['made_by']['judge']} with this project's own prompt; the paper's judge was "
        "GPT-4 with the official one. Another judge is another scale."
    )
    score = result["metrics"].get("mmhal/score", {})
    if score.get("visible_difference") is not None:
        yield (
            f"MMHal-Bench's {score['n']} questions tell two runs apart that differ by "
            f"{score['visible_difference']:.2f} or more; smaller differences in the table may be chance."
        )


def _explain_object_halbench(result: Mapping[str, Any]) -> Iterator[str]:
    metrics, judge = result["metrics"], result["made_by"].get("judge")
    mode = "llm" if "object_halbench/llm/chair_s" in metrics else "word"
    how = f"LLM mode, objects listed by {judge}" if mode == "llm" else "word mode, without a language model"
    refined = _value(result, f"object_halbench/{mode}/chair_s_refine", ".1f")
    yield (
        f"Object HalBench in {how}. Published tables mix the modes, and the paper does not say which its rows are in. "
        f"Over answers that name an object at all CHAIRs is {refined}."
    )


def _value(result: Mapping[str, Any], metric: str, form: str) -> str:
    value = result["metrics"].get(metric, {}).get("value")
    return MISSING if value is None else format(value, form)


def write_suite(suite: Suite, results: Mapping[str, Mapping[str, Any]], out: Path) -> Path:
    """Writes suite.json, suite.md and suite.csv; returns the path of the first."""
    make_folder(out)
    content = asdict(suite) | {
        "results": {name: str(Path(name) / "result.json") for name in results},
        "paper": {"source": SOURCE, "columns": [column.header for column in COLUMNS], "rows": PAPER},
    }
    write_whole(out / "suite.json", to_json(content, indent=2) + "\n")
    write_whole(out / "suite.md", markdown_suite(suite))
    write_whole(out / "suite.csv", csv_suite(suite))
    return out / "suite.json"


def markdown_suite(suite: Suite) -> str:
    """Returns the table in GitHub's Markdown, then what is missing and what to know, ending with a newline."""
    headers = ["", *(column.header for column in COLUMNS)]
    lines = [headers, ["---", *("---:" for _ in COLUMNS)], *_rows(suite, "<br>")]
    table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return table + "\n" + "".join(f"- {line}\n" for line in _remarks(suite))


def csv_suite(suite: Suite) -> str:
    """Returns the rows with an interval's ends in fields of their own; a missing figure is an empty field."""
    headers = ["row", *(f"{column.header[:-2]}{end}" for column in COLUMNS for end in ("", " low", " high"))]
    rows = [
        [label, *(field for figure in figures for field in (figure, None, None))] for label, figures in PAPER.items()
    ]
    fields = [
        field
        for cell in suite.cells.values()
        for field in ((None, None, None) if cell is None else (cell.value, cell.low, cell.high))
    ]
    return csv_text(headers, [*rows, [suite.label, *fields]])


def _rows(suite: Suite, between: str) -> Iterator[Sequence[str]]:
    for label, figures in PAPER.items():
        yield [label, *(format(figure, column.form) for figure, column in zip(figures, COLUMNS, strict=True))]
    yield [suite.label, *(_show(suite.cells[column.header], column, between) for column in COLUMNS)]


def _show(cell: Cell | None, column: Column, between: str) -> str:
    if cell is None:
        return MISSING
    interval = "" if cell.low is None or cell.high is None else f"{cell.low:{column.form}}–{cell.high:{column.form}}"
    return format(cell.value, column.form) + (between + interval if interval else "")


def _remarks(suite: Suite) -> list[str]:
    return [*(f"missing: {name}: {reason}" for name, reason in suite.missing.items()), *suite.notes]


def _print(suite: Suite, out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", min_width=13, overflow="fold")
    for column in COLUMNS:  # narrow enough, with an interval on two lines, for 80 columns
        table.add_column(column.header.replace(" ", "\n"), justify="right", no_wrap=True)
    rows = list(_rows(suite, "\n"))
    for place, (label, *cells) in enumerate(rows):
        trained = label.partition(" + ")[2] if label in PAPER else ""
        is_last_of_paper = place == len(rows) - 2
        table.add_row(
            f"  + {trained}" if trained else as_text(label),
            *(cell.replace("–", "–\n") if "\n" in cell else cell for cell in cells),
            end_section=is_last_of_paper,
        )
    console = Console()
    console.print()
    if any(suite.cells.values()):  # an embedded world is in no column
        console.print(table)
    for line in _remarks(suite):
        print_line(console, line)
    print_line(console, f"Suite: {out / 'suite.json'}")
