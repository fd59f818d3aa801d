"""`mmdpo eval suite`: all benchmarks one after the other, and their figures beside the paper's Table 1.

    <out>/<benchmark>/…                  what `mmdpo eval <benchmark>` writes
    <out>/suite.json, suite.md, suite.csv

Each benchmark is run by the function that runs it alone; one that fails is shown as missing, with the reason. Those of
the paper's table and POPE are always run; the others where their data is there, and the answers and the judge that they
need, and a note names those that are left out. The paper's figures: Wang et al., mDPO: Conditional Preference
Optimization for Multimodal Large Language Models, EMNLP 2024 (arXiv 2406.11839v2), Table 1. One run each, no intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console

from mmdpo.benchmarks.evaluate import SUFFIX, Evaluation
from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.benchmark_run import run_benchmark
from mmdpo.evaluation.download import default_folder
from mmdpo.evaluation.options import EvaluationOptions, SuiteOptions, make_answerer
from mmdpo.files import make_folder, printable, write_json, write_whole
from mmdpo.judges import JudgeOptions
from mmdpo.tables import ARROWS, MISSING, NO_BREAK, Table, show_interval
from mmdpo.world import find_world

if TYPE_CHECKING:
    from mmdpo.report.evaluation import PublishedTable

logger = logging.getLogger(__name__)

ALWAYS = ("amber", "mmhal", "object_halbench", "pope")
DEFAULT = (*ALWAYS, *(name for name in names() if find_world(name) is None and name not in ALWAYS))

RunBenchmark = Callable[[str, EvaluationOptions], Evaluation | None]

SOURCE: Final = "Wang et al., mDPO, EMNLP 2024 (arXiv 2406.11839v2), Table 1"


class PaperColumn(NamedTuple):
    """A column of the table: a benchmark's metric, the first of these that a result has, and how it is printed."""

    header: str
    metrics: tuple[str, ...]
    form: str


COLUMNS: Final = (
    PaperColumn("MMHal score ↑", ("mmhal/score",), ".2f"),
    PaperColumn("MMHal HalRate ↓", ("mmhal/hallucination_rate",), ".2f"),
    PaperColumn("ObjHal CHAIRs ↓", ("object_halbench/llm/chair_s", "object_halbench/word/chair_s"), ".1f"),
    PaperColumn("ObjHal CHAIRi ↓", ("object_halbench/llm/chair_i", "object_halbench/word/chair_i"), ".1f"),
    PaperColumn("AMBER CHAIR ↓", ("amber/chair",), ".1f"),
    PaperColumn("AMBER Cover ↑", ("amber/cover",), ".1f"),
    PaperColumn("AMBER Hal ↓", ("amber/hal",), ".1f"),
    PaperColumn("AMBER Cog ↓", ("amber/cog",), ".1f"),
)

PAPER: Final[dict[str, tuple[float, ...]]] = {
    "Bunny-v1.0-3B": (2.11, 0.58, 43.0, 8.9, 9.8, 75.6, 64.9, 6.0),
    "Bunny-v1.0-3B + DPO": (2.28, 0.56, 44.3, 7.6, 7.9, 74.1, 58.9, 4.8),
    "Bunny-v1.0-3B + mDPO": (2.96, 0.42, 27.0, 4.6, 4.9, 67.4, 37.7, 2.4),
    "LLaVA-v1.5-7B": (2.19, 0.57, 54.7, 15.9, 7.4, 51.8, 34.7, 4.1),
    "LLaVA-v1.5-7B + DPO": (2.14, 0.65, 49.0, 13.0, 6.5, 55.1, 34.5, 2.3),
    "LLaVA-v1.5-7B + mDPO": (2.39, 0.54, 35.7, 9.8, 4.4, 52.4, 24.5, 2.4),
}
"""Row → its figures in the order of COLUMNS."""


@dataclass(frozen=True)
class TableValue:
    """One figure of the run: as the official scorer prints it, with its 95 % interval."""

    metric: str
    value: float
    low: float | None
    high: float | None


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
    for name in chosen:
        print(f"\n{name}", flush=True)
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
    cells = {column.header: _find_value(column, results) for column in COLUMNS}
    suite = Suite(label, of, cells, _find_others(results), missing, left_out, (f"{label}: {of}", *_explain(results)))
    if _is_main(options) and not options.asking.answers_only:
        remarks = [*(f"missing: {name}: {reason}" for name, reason in missing.items()), *suite.notes]
        remarks += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
        _write(suite, remarks, results, options.out)
        print()
        if any(cells.values()):  # an embedded world is in no column
            Console().print(build_table(suite, is_narrow=True).terminal(wrap=6, padding=(0, 0, 0, 1)))
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
        raise ValueError(f"--benchmarks: there is no {', '.join(unknown)}; there are {', '.join(names())}")
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


def _find_value(column: PaperColumn, results: Mapping[str, Mapping[str, Any]]) -> TableValue | None:
    metrics = results.get(column.metrics[0].partition("/")[0], {}).get("metrics", {})
    for name in column.metrics:
        if metrics.get(name, {}).get("value") is not None:
            return TableValue(name, *(metrics[name][key] for key in ("value", "low", "high")))
    return None


def _find_others(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    shown = [(name, metric) for name in results for metric in load(name).headline]
    return {metric: results[name]["metrics"][metric] for name, metric in shown if metric in results[name]["metrics"]}


def _explain(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield (
        f"The paper's rows: {SOURCE}; one run each, without intervals. Intervals here: 95 %, bootstrap over images, or "
        "over groups of questions that count together."
    )
    for name, result in results.items():
        if result["partial"]:
            yield f"{name} is partial: {'; '.join(result['partial_because'])}"
        if suffix := result["made_by"].get(SUFFIX):
            yield f"{name} was asked with {suffix} after its questions."
    if "mmhal" in results:
        yield from _explain_mmhal(results["mmhal"])
    if "object_halbench" in results:
        yield from _explain_object_halbench(results["object_halbench"])
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


def _write(suite: Suite, remarks: Sequence[str], results: Iterable[str], out: Path) -> None:
    """Writes suite.json, suite.md and suite.csv."""
    make_folder(out)
    content = asdict(suite) | {
        "results": {name: str(Path(name) / "result.json") for name in results},
        "paper": {"source": SOURCE, "columns": [column.header for column in COLUMNS], "rows": PAPER},
    }
    table = build_table(suite)
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


def build_table(suite: Suite, *, is_narrow: bool = False) -> Table:
    """Returns the paper's rows and the run's; a narrow one has intervals below values, for terminals of 80 columns."""
    return _tabulate({**_published(), suite.label: tuple(suite.cells.values())}, is_narrow=is_narrow)


def set_beside_paper(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> PublishedTable | None:
    """Returns the rows of runs and, below them, the paper's; None where no run has a figure of the paper's columns.

    `results` is, by run and benchmark, the content of result.json.
    """
    from mmdpo.report.evaluation import PublishedTable

    runs = {label: tuple(_find_value(column, of) for column in COLUMNS) for label, of in results.items()}
    runs = {label: cells for label, cells in runs.items() if any(cells)}
    if not runs:
        return None
    metrics = frozenset(cell.metric for cells in runs.values() for cell in cells if cell is not None)
    kept = {label: {name: of for name, of in results[label].items() if _is_in_paper(name)} for label in runs}
    notes = dict.fromkeys(note for of in kept.values() for note in _explain(of))
    table = _tabulate({**runs, **_published()})
    below = tuple(tuple(cell.replace(" [", "\n[") for cell in row) for row in table.rows)  # so that it fits a page
    table = replace(table, title="Beside the paper's Table 1", rows=below)
    return PublishedTable(table, frozenset(PAPER), metrics, tuple(notes))


def _is_in_paper(benchmark: str) -> bool:
    return any(metric.startswith(f"{benchmark}/") for column in COLUMNS for metric in column.metrics)


def _published() -> dict[str, tuple[TableValue | None, ...]]:
    return {label: tuple(TableValue("", value, None, None) for value in values) for label, values in PAPER.items()}


def _tabulate(of: Mapping[str, Sequence[TableValue | None]], *, is_narrow: bool = False) -> Table:
    """Returns a row for each label with the columns of the paper's table."""
    rows, records = [], []
    for label, cells in of.items():
        pairs = list(zip(COLUMNS, cells, strict=True))
        figures = {
            f"{column.header[:-2]}{end}": None if cell is None else getattr(cell, name)
            for column, cell in pairs
            for end, name in (("", "value"), (" low", "low"), (" high", "high"))
        }
        records.append({"row": label, **figures})
        shown = [
            MISSING if cell is None else show_interval(cell.value, cell.low, cell.high, column.form)
            for column, cell in pairs
        ]
        if is_narrow:
            label = f"  + {label.partition(' + ')[2]}" if label in PAPER and " + " in label else label
            shown = [text.replace(" [", "\n").replace(f"{NO_BREAK}…{NO_BREAK}", "…\n").rstrip("]") for text in shown]
        rows.append((label, *shown))
    return Table(("", *(column.header for column in COLUMNS)), tuple(rows), records=tuple(records))
