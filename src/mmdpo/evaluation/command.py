"""`mmdpo eval BENCHMARK --answers FILE`: scores answers that exist already.

The command line calls `add_eval_verb`. Nothing heavy is imported before a benchmark is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdpo.benchmarks.tasks import names

if TYPE_CHECKING:
    from mmdpo.benchmarks.evaluate import Evaluation, MetricValue
    from mmdpo.benchmarks.linguistics import Linguistics
    from mmdpo.benchmarks.records import Tools
    from mmdpo.benchmarks.similarity import Similarity


def add_eval_verb(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `eval` with one verb per benchmark; each sets `verb`, a function of the options that returns the status."""
    parser = verbs.add_parser("eval", help="score answers to a benchmark of hallucination by its official rule")
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for name in names():
        benchmark = benchmarks.add_parser(name, help=f"score answers to {name}")
        _add_options(benchmark, name)
        benchmark.set_defaults(verb=partial(_run, name))


def _add_options(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--answers", required=True, metavar="FILE", help="answers in our format or the official one, or a folder"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where answers, scores and result.json go")
    parser.add_argument("--data_dir", default=".", required=name != "world", metavar="FOLDER")
    parser.add_argument("--judge_replies", metavar="FILE", help="recorded replies of a judge (mmhal, object_halbench)")
    parser.add_argument("--linguistics", choices=("nltk", "table"), default="nltk", help="nltk is the official one")
    parser.add_argument("--nltk_data", metavar="FOLDER", help="else data_dir/nltk_data, else NLTK's own places")
    parser.add_argument(
        "--similarity", choices=("model", "exact"), default="model", help="amber: en_core_web_lg, or equal words alone"
    )
    parser.add_argument("--similar_pairs", metavar="FILE", help="amber: a table of similar words instead of the model")
    parser.add_argument("--partial", action="store_true", help="score what is there though answers are missing")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")


def _run(name: str, options: argparse.Namespace) -> int:
    from mmdpo.benchmarks.evaluate import write_evaluation

    evaluation = evaluate(name, options)
    result = write_evaluation(evaluation, options.out)
    _print(evaluation, result)
    return 0


def evaluate(name: str, options: argparse.Namespace) -> Evaluation:
    """Scores what the options name; raises what `evaluate_answers` raises."""
    from mmdpo.benchmarks.evaluate import evaluate_answers

    if options.resamples < 100:
        raise ValueError(f"--resamples is {options.resamples}; an interval needs 100 at least")
    return evaluate_answers(
        name,
        options.answers,
        options.data_dir,
        make_tools(name, options),
        allow_partial=options.partial,
        resamples=options.resamples,
        seed=options.seed,
    )


def make_tools(name: str, options: argparse.Namespace) -> Tools:
    """Returns the tools that the options choose; those that a benchmark does not use are never loaded."""
    from mmdpo.benchmarks.evaluate import find_data
    from mmdpo.benchmarks.records import Tools
    from mmdpo.benchmarks.replies import RecordedReplies
    from mmdpo.benchmarks.tasks import load

    benchmark = load(name)
    tools = Tools(_choose_linguistics(options), _choose_similarity(options))
    if options.judge_replies is None:
        return tools
    if benchmark.judge_prompt is None:
        raise ValueError(f"--judge_replies: {name} has no judge")
    items = benchmark.read_items(find_data(name, options.data_dir), tools)
    judge = RecordedReplies.read(options.judge_replies, [item.id for item in items])
    return Tools(tools.make_linguistics, tools.make_similarity, judge)


def _choose_linguistics(options: argparse.Namespace) -> Callable[[], Linguistics]:
    from mmdpo.benchmarks.linguistics import NltkLinguistics
    from mmdpo.benchmarks.word_table import TableLinguistics

    if options.linguistics == "table":
        return TableLinguistics
    beside = Path(options.data_dir) / "nltk_data"
    return partial(NltkLinguistics, options.nltk_data or (beside if beside.is_dir() else None))


def _choose_similarity(options: argparse.Namespace) -> Callable[[], Similarity]:
    from mmdpo.benchmarks.similarity import PairTable, load_spacy

    if options.similar_pairs is not None:
        return partial(PairTable.read, options.similar_pairs)
    if options.similarity == "exact":
        return partial(PairTable, (), "equal words alone, which is not the official rule")
    return load_spacy


def _print(evaluation: Evaluation, result: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=evaluation.benchmark + (" (partial)" if evaluation.partial else ""), title_justify="left")
    for column in ("metric", "value", "95 % interval", "n", "unit"):
        table.add_column(column, justify="left" if column in ("metric", "unit") else "right")
    for name, value in evaluation.metrics.items():
        table.add_row(name, _show(value.value), _show_interval(value), f"{value.n:,}", value.unit)
    console = Console()
    console.print(table)
    for part, coverage in evaluation.coverage.items():
        console.print(f"{part}: {coverage.scored:,} of {coverage.items:,} items scored", highlight=False)
    for reason in evaluation.partial:
        console.print(f"partial: {reason}", highlight=False, markup=False)
    for note in evaluation.notes.values():
        console.print(f"note: {note.count:,} × {note.meaning}", highlight=False, markup=False)
    console.print(f"Result: {result}", highlight=False, markup=False)


def _show(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.4g}"


def _show_interval(value: MetricValue) -> str:
    return "" if value.low is None else f"{_show(value.low)} – {_show(value.high)}"
