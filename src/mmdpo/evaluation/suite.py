"""`mmdpo eval suite`: all benchmarks one after the other, and their figures beside the paper's Table 1.

    <out>/<benchmark>/…                  what `mmdpo eval <benchmark>` writes
    <out>/suite.json, suite.md, suite.csv

Each benchmark is run by the function that runs it alone; one that fails is shown as missing, with the reason. Those of
the paper's table and POPE are always run; the others where their data is there, and the answers and the judge that they
need, and a note names those that are left out. `compare_suites` prints several suites as rows of one table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmdpo.benchmarks.evaluate import Evaluation
from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.benchmark_run import run_benchmark
from mmdpo.evaluation.download import default_folder
from mmdpo.evaluation.options import EvaluationOptions, SuiteOptions, make_answerer
from mmdpo.evaluation.paper_table import COLUMNS, PAPER, SOURCE, TableValue, build_paper_table, explain, find_cells
from mmdpo.files import printable, write_json, write_whole
from mmdpo.folders import make_folder
from mmdpo.judges import JudgeOptions
from mmdpo.registry import name_nearest
from mmdpo.tables import ARROWS, Table, show_interval
from mmdpo.world import find_world

if TYPE_CHECKING:
    from mmdpo.report.evaluation import PublishedTable

logger = logging.getLogger(__name__)

ALWAYS = ("amber", "mmhal", "object_halbench", "pope")
DEFAULT = (*ALWAYS, *(name for name in names() if find_world(name) is None and name not in ALWAYS))

RunBenchmark = Callable[[str, EvaluationOptions], Evaluation | None]


@dataclass(frozen=True)
class Suite:
    """What became of all benchmarks: whose answers, the figure of each column, and why some have no result."""

    label: str
    of: str
    cells: Mapping[str, TableValue | None]
    others: Mapping[str, Mapping[str, Any]]
    """Main metrics of benchmarks that are not in the paper's table, as their results have them."""
    missing: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


def run_suite(options: SuiteOptions, run: RunBenchmark | None = None) -> Suite:
    """Runs the benchmarks that the options name, writes the table and prints it; raises as `choose_benchmarks`."""
    run = run or partial(run_benchmark, make=cache(partial(make_answerer, options)))
    results: dict[str, Mapping[str, Any]] = {}
    missing: dict[str, str] = {}
    chosen, left_out = choose_benchmarks(options)
    for place, name in enumerate(chosen, start=1):
        print(f"\n{name} ({place} of {len(chosen)})", flush=True)
        try:
            if result := _run_one(name, options, run):
                results[name] = result
        except Exception as error:  # a later benchmark may well work, and this one's answers took hours
            logger.debug("%s failed", name, exc_info=True)
            is_clear = isinstance(error, ValueError | OSError)
            missing[name] = printable(str(error) if is_clear else f"{type(error).__name__}: {error}")
            print(f"{name} has no result: {missing[name]}", flush=True)
    adapter = f" + {options.checkpoint.adapter}" if options.checkpoint.adapter else ""
    of = printable(f"{options.model}{adapter}" if options.model else f"answers in {options.answers}")
    label = printable(options.out.resolve().name)
    cells, notes = find_cells(results), (f"{label}: {of}", *explain(results))
    suite = Suite(label, of, cells, _find_others(results), missing, left_out, notes)
    if _is_main(options) and not options.asking.answers_only:
        remarks = [*(f"missing: {name}: {reason}" for name, reason in missing.items()), *suite.notes]
        remarks += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
        _write(suite, remarks, results, options.out)
        print()
        if any(cells.values()):  # an embedded world is in no column
            Console().print(
                build_paper_table({suite.label: suite.cells}, is_narrow=True).terminal(wrap=6, padding=(0, 0, 0, 1))
            )
            print()
        if suite.others:
            Console().print(build_other_table(suite).terminal(padding=(0, 0, 0, 1)))
        print(printable("\n".join([*remarks, f"Suite: {options.out / 'suite.json'}"])))
    return suite


def choose_benchmarks(options: SuiteOptions) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns which are run, and why others are not, where the options name none.

    Raises ValueError for one that is none, EvaluationError for no folder of answers.
    """
    unknown = sorted(set(options.benchmarks) - set(names()))
    if unknown:
        nearest = name_nearest(unknown[0], names())
        raise ValueError(f"--benchmarks: there is no {', '.join(unknown)}{nearest} There are {', '.join(names())}")
    suffix, chosen = options.asking.prompt_suffix, options.benchmarks or DEFAULT
    known = sorted({suffix for name in chosen for suffix in load(name).suffixes})
    if suffix is not None and suffix not in known:
        raise ValueError(
            f"--prompt_suffix {suffix!r}: a suite takes the name of a suffix ({', '.join(known) or 'none is known'}), "
            "which benchmarks that know it are asked with; run one benchmark alone for a text of your own"
        )
    if options.answers is not None and not options.answers.is_dir():
        raise EvaluationError(
            f"--answers {options.answers}: a suite takes a folder, with BENCHMARK.jsonl or BENCHMARK/answers.jsonl each"
        )
    if options.benchmarks:
        return tuple(dict.fromkeys(options.benchmarks)), {}
    if options.model is not None and find_world(options.model) is not None:
        return (options.model,), {}
    lacking = {name: _find_lacking(name, options) for name in DEFAULT if name not in ALWAYS}
    left_out = {name: what for name, what in lacking.items() if what}
    return tuple(name for name in DEFAULT if name not in left_out), left_out


def _find_lacking(name: str, options: SuiteOptions) -> str:
    """Returns what a benchmark needs and has not got; "" for nothing."""
    benchmark, judge = load(name), options.judge
    folder = options.data_dir or default_folder()
    if not (folder / benchmark.data_name).is_dir():
        return f"no data, {folder / benchmark.data_name}"
    if options.answers is not None and not _is_there(options.answers, name, "answers"):
        return f"no answers in {options.answers}"
    if benchmark.needs_judge and not judge.is_given and not options.asking.answers_only:
        return "it needs a judge"
    has_file = judge.replies is None or not judge.replies.is_dir() or _is_there(judge.replies, name, "judge_replies")
    return "" if has_file or benchmark.judge_prompt is None else f"no replies of a judge in {judge.replies}"


def _is_there(folder: Path, name: str, stem: str) -> bool:
    try:
        find_file(folder, name, stem)
    except EvaluationError:
        return False
    return True


def _run_one(name: str, options: SuiteOptions, run: RunBenchmark) -> Mapping[str, Any]:
    """Runs one benchmark in a folder of its own; returns its result, nothing where none is wanted from this process."""
    benchmark, asking, judge, answers = load(name), options.asking, options.judge, options.answers
    if answers is not None:
        answers = find_file(answers, name, "answers")
    if asking.image_dir is not None:  # drawn pictures are in no folder
        own = asking.image_dir / name
        image_dir = None if benchmark.draw_image else own if own.is_dir() else asking.image_dir
        asking = replace(asking, image_dir=image_dir)
    if benchmark.judge_prompt is None:
        judge = JudgeOptions()
    elif judge.replies is not None and judge.replies.is_dir():
        judge = replace(judge, replies=find_file(judge.replies, name, "judge_replies"))
    if asking.prompt_suffix not in benchmark.suffixes:
        asking = replace(asking, prompt_suffix=None)
    rule = options.rule if benchmark.peers else "official"
    out = options.out / name
    scored = run(name, replace(options, out=out, answers=answers, asking=asking, judge=judge, rule=rule))
    if options.asking.answers_only or not _is_main(options):
        return {}
    if scored is None:
        raise EvaluationError("it was answered and not scored, for the reason above")
    return dict(read_data(out / "result.json"))


def find_file(folder: Path, name: str, stem: str) -> Path:
    """Returns NAME.json(l), NAME/stem.json(l) or NAME itself of a folder; raises EvaluationError if there is none."""
    places = [folder / f"{name}.jsonl", folder / f"{name}.json"]
    places += [folder / name / f"{stem}.jsonl", folder / name / f"{stem}.json"]
    found = next((place for place in places if place.is_file()), folder / name)
    if not found.exists():
        shown = ", ".join(str(place.relative_to(folder)) for place in places)
        raise EvaluationError(f"{folder}: holds none of {shown}, and no folder {name}")
    return found


def _is_main(options: SuiteOptions) -> bool:
    if options.model is None:
        return True
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _find_others(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    shown = [(name, metric) for name in results for metric in load(name).headline]
    return {metric: results[name]["metrics"][metric] for name, metric in shown if metric in results[name]["metrics"]}


def _write(suite: Suite, remarks: Sequence[str], results: Iterable[str], out: Path) -> None:
    """Writes suite.json, suite.md and suite.csv."""
    make_folder(out)
    content = asdict(suite) | {
        "results": {name: str(Path(name) / "result.json") for name in results},
        "paper": {"source": f"{SOURCE}, Table 1", "columns": [column.header for column in COLUMNS], "rows": PAPER["1"]},
    }
    table = build_paper_table({suite.label: suite.cells})
    write_json(out / "suite.json", content)
    others = f"{build_other_table(suite).markdown()}\n" if suite.others else ""
    notes = "".join(f"- {line}\n" for line in remarks)
    write_whole(out / "suite.md", f"{table.markdown()}\n{others}{notes}")
    write_whole(out / "suite.csv", table.csv())


def build_other_table(suite: Suite) -> Table:
    """Returns the main metrics of the benchmarks that are not in the paper's table."""
    rows = []
    for name, value in suite.others.items():
        form = ".3f" if value["unit"] == "share" else ".1f"
        shown = show_interval(value["value"], value["low"], value["high"], form)
        rows.append((name + ARROWS[value["better"]], shown, f"{value['n']:,}", value["unit"]))
    records = tuple({"metric": name, **value} for name, value in suite.others.items())
    return Table(("not in the paper's table", suite.label, "n", "unit"), tuple(rows), records=records)


def set_beside_paper(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> PublishedTable | None:
    """Returns the rows of runs and, below them, the paper's; None where no run has a figure of the paper's columns.

    `results` is, by run and benchmark, the content of result.json.
    """
    from mmdpo.report.evaluation import PublishedTable

    runs = {label: cells for label, of in results.items() if any((cells := find_cells(of)).values())}
    if not runs:
        return None
    metrics = frozenset(cell.metric for cells in runs.values() for cell in cells.values() if cell is not None)
    shown = {metric.partition("/")[0] for column in COLUMNS for metric in column.metrics}
    kept = {label: {name: of for name, of in results[label].items() if name in shown} for label in runs}
    notes = dict.fromkeys(note for of in kept.values() for note in explain(of))
    table = build_paper_table(runs, paper_last=True)
    below = tuple(tuple(cell.replace(" [", "\n[") for cell in row) for row in table.rows)  # so that it fits a page
    table = replace(table, title="Beside the paper's Table 1", rows=below)
    return PublishedTable(table, frozenset(PAPER["1"]), metrics, tuple(notes))
