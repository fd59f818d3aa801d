"""`mmdpo eval BENCHMARK`: scores answers that exist already (`--answers`), or those of a model (`--model`).

The command line calls `add_eval_verb`. Nothing heavy is imported before a benchmark is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.answer_options import add_answer_options, check_unused
from mmdpo.evaluation.judge_options import add_judge_options, check_judge, choose_judge, has_judge
from mmdpo.evaluation.verbs import add_verbs
from mmdpo.printable import printable

if TYPE_CHECKING:
    from mmdpo.benchmarks.evaluate import Evaluation
    from mmdpo.benchmarks.linguistics import Linguistics
    from mmdpo.benchmarks.records import Tools
    from mmdpo.benchmarks.similarity import Similarity
    from mmdpo.generation.records import Answerer


class _BenchmarkParser(argparse.ArgumentParser):
    """Takes every option of an evaluation; its help shows those that its benchmark uses."""

    benchmark = ""
    """Its name; empty for verbs that are no benchmark."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.only_for: dict[str, list[argparse.Action]] = {}
        """What a benchmark may use (`Benchmark.uses`) → the options that are for nothing else."""

    def format_help(self) -> str:
        """Returns the help without the options of what the benchmark does not use."""
        used = load(self.benchmark).uses if self.benchmark else frozenset(self.only_for)
        for action in (action for use in set(self.only_for) - used for action in self.only_for[use]):
            action.help = argparse.SUPPRESS
        return super().format_help()


def add_eval_verb(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `eval` with one verb per benchmark; each sets `verb`, a function of the options that returns the status."""
    parser = verbs.add_parser("eval", help="ask a model, or score answers, by the official rule")
    benchmarks = parser.add_subparsers(
        title="benchmarks", metavar="BENCHMARK", required=True, parser_class=_BenchmarkParser
    )
    add_verbs(benchmarks)
    suite = benchmarks.add_parser("suite", help="run all benchmarks and print them next to the paper's Table 1")
    suite.add_argument(
        "--benchmarks", nargs="+", metavar="NAME", help="Run these. The default is all but the embedded worlds."
    )
    _add_options(suite)
    suite.set_defaults(verb=_run_suite)
    for name in names():
        benchmark = benchmarks.add_parser(name, help=f"ask a model about {name}, or score answers")
        benchmark.benchmark = name
        _add_options(benchmark)
        benchmark.set_defaults(verb=partial(_run, name))


def _add_options(parser: _BenchmarkParser) -> None:
    parser.usage = "%(prog)s (--answers FILE | --model M) --out FOLDER [options]"  # all would hide an error's line
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--answers", metavar="FILE", help="Score these answers, in our format or the official one; a file or a folder."
    )
    source.add_argument(
        "--model", metavar="M", help="Ask this model: a hub name, a folder, a run of mmdpo train, or world."
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="Write answers, scores and result.json into this folder."
    )
    data_dir = parser.add_argument(
        "--data_dir",
        metavar="FOLDER",
        help="Folder of the benchmark's data. The default is what `mmdpo eval download` fetched.",
    )
    image_dir = add_answer_options(parser)
    judge = add_judge_options(parser)
    linguistics = [
        parser.add_argument(
            "--linguistics",
            choices=("nltk", "table"),
            default="nltk",
            help="How words are read: by NLTK, as officially, or by a table that needs nothing installed.",
        ),
        parser.add_argument(
            "--nltk_data",
            metavar="FOLDER",
            help="Folder of NLTK's data. The default is nltk_data in --data_dir, else NLTK's own places.",
        ),
    ]
    similarity = [
        parser.add_argument(
            "--similarity",
            choices=("model", "exact"),
            default="model",
            help="amber: words are similar by en_core_web_lg, as officially, or only if they are equal.",
        ),
        parser.add_argument(
            "--similar_pairs",
            metavar="FILE",
            help="amber: table of similar words. similar_pairs.json in --data_dir is taken where the model is missing.",
        ),
    ]
    parser.add_argument(
        "--strip_thoughts",
        action="store_true",
        help="Take a model's thoughts, <think> to </think>, off before scoring.",
    )
    parser.add_argument("--partial", action="store_true", help="Score what is there though answers are missing.")
    parser.add_argument("--resamples", type=int, default=2000, help="Number of resamples of the bootstrap.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the bootstrap.")
    parser.only_for = {
        "judge": judge,
        "files": [data_dir, image_dir],
        "linguistics": linguistics,
        "similarity": similarity,
    }


def _run(name: str, options: argparse.Namespace, make_answerer: Callable[[], Answerer] | None = None) -> int:
    """Runs one benchmark; `make_answerer` gives the model that several of them share."""
    from mmdpo.benchmarks.answers import list_files
    from mmdpo.benchmarks.evaluate import write_evaluation
    from mmdpo.benchmarks.reading import make_folder
    from mmdpo.benchmarks.run_folder import check_folder
    from mmdpo.benchmarks.stats import check_bootstrap
    from mmdpo.evaluation.download import choose_data_dir
    from mmdpo.folder_lock import hold_folder

    check_bootstrap(options.resamples, options.seed)
    check_judge(load(name), options)
    options.data_dir = choose_data_dir(name, options.data_dir)
    if options.model is None:
        check_unused(options)
        check_folder(Path(options.out), name, list_files(Path(options.answers)))
    elif not _answer(name, options, make_answerer or partial(_make_answerer, options)):
        return 0
    out = Path(options.out)
    if has_judge(options):
        make_folder(out)  # replies are kept there from the first on
    with hold_folder(out) if out.is_dir() else nullcontext():
        evaluation = evaluate(name, options)
        result = write_evaluation(evaluation, options.out)
    _print(evaluation, result, options)
    return 0


def _run_suite(options: argparse.Namespace) -> int:
    from mmdpo.evaluation.suite import run_suite

    if options.model is None:
        check_unused(options)
    return run_suite(options, partial(_run, make_answerer=cache(partial(_make_answerer, options))))


def _make_answerer(options: argparse.Namespace) -> Answerer:
    from mmdpo.evaluation.answer_options import make_answerer

    return make_answerer(options)


def _answer(name: str, options: argparse.Namespace, make_answerer: Callable[[], Answerer]) -> bool:
    """Asks the model, and lets the options name its answers; returns whether they are to be scored here and now."""
    from mmdpo.benchmarks.evaluate import find_data
    from mmdpo.evaluation.answer_options import answer_benchmark

    benchmark = load(name)
    folder, tools = find_data(name, options.data_dir), _make_language_tools(name, options)
    outcome = answer_benchmark(benchmark, folder, options, tools, make_answerer())
    if not outcome.is_main:
        return False
    options.answers, options.partial = outcome.path, options.partial or outcome.is_partial
    print(printable(f"{outcome.answered:,} of {outcome.items:,} items answered: {outcome.path}"))
    if outcome.stopped:
        print(f"{outcome.stopped}; the same command goes on from there")
    if benchmark.needs_judge and not has_judge(options):
        again = printable(f"mmdpo eval {name} --answers {outcome.path}")
        print(
            f"{name} needs a judge: {again} with --judge_model M (and --judge_url for an endpoint), or with "
            "--judge_replies FILE"
        )
        return False
    return outcome.answered > 0 and not options.answers_only


def evaluate(name: str, options: argparse.Namespace) -> Evaluation:
    """Scores what the options name; raises what `evaluate_answers` raises."""
    from mmdpo.benchmarks.evaluate import evaluate_answers

    return evaluate_answers(
        name,
        options.answers,
        options.data_dir,
        make_tools(name, options),
        allow_partial=options.partial,
        strip_thoughts=options.strip_thoughts,
        resamples=options.resamples,
        seed=options.seed,
    )


def make_tools(name: str, options: argparse.Namespace) -> Tools:
    """Returns the tools that the options choose; those that a benchmark does not use are never loaded."""
    from mmdpo.benchmarks.evaluate import find_data

    benchmark, tools = load(name), _make_language_tools(name, options)
    return replace(tools, judge=choose_judge(benchmark, find_data(name, options.data_dir), tools, options), used={})


def _make_language_tools(name: str, options: argparse.Namespace) -> Tools:
    from mmdpo.benchmarks.records import Tools

    return Tools(_choose_linguistics(options), _choose_similarity(name, options))


def _choose_linguistics(options: argparse.Namespace) -> Callable[[], Linguistics]:
    from mmdpo.benchmarks.linguistics import NltkLinguistics
    from mmdpo.benchmarks.word_table import TableLinguistics

    if options.linguistics == "table":
        return TableLinguistics
    beside = Path(options.data_dir) / "nltk_data"
    return partial(NltkLinguistics, options.nltk_data or (beside if beside.is_dir() else None))


def _choose_similarity(name: str, options: argparse.Namespace) -> Callable[[], Similarity]:
    from mmdpo.benchmarks.evaluate import find_data
    from mmdpo.benchmarks.similarity import PAIRS, PairTable, load_spacy

    if options.similar_pairs is not None:
        return partial(PairTable.read, options.similar_pairs)
    if options.similarity == "exact":
        return partial(PairTable, (), "equal words alone, which is not the official rule")
    places = [folder / PAIRS for folder in (find_data(name, options.data_dir), Path(options.data_dir))]
    beside = next((place for place in places if place.is_file()), None)

    def load_model_or_table() -> Similarity:
        try:
            return load_spacy()
        except ImportError:
            if beside is None:
                raise
            return PairTable.read(beside)

    return load_model_or_table


def _print(evaluation: Evaluation, result: Path, options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from mmdpo.evaluation.terminal import print_line
    from mmdpo.tables import ARROWS

    digits = {metric.name: metric.shown_digits for metric in load(evaluation.benchmark).metrics}
    table = Table(title=evaluation.benchmark + (" (partial)" if evaluation.partial else ""), title_justify="left")
    table.add_column("metric", overflow="fold")
    for column in ("value", "95 % interval", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name, value in evaluation.metrics.items():
        shown = [_show(number, digits[name]) for number in (value.value, value.low, value.high)]
        interval = "" if value.low is None else f"{shown[1]} – {shown[2]}"
        table.add_row(name + ARROWS[value.better], shown[0], interval, f"{value.n:,}", value.unit)
    console = Console()
    console.print(table)
    if any(ARROWS[value.better] for value in evaluation.metrics.values()):
        print_line(console, "↑ higher is better, ↓ lower is better")
    for part, coverage in evaluation.coverage.items():
        print_line(console, f"{part}: {coverage.scored:,} of {coverage.items:,} items scored")
    for tool, made_by in evaluation.made_by.items():
        print_line(console, f"{tool}: {made_by}")
    for line in _list_unofficial(evaluation, options):
        print_line(console, f"NOT OFFICIAL: {line}")
    for reason in evaluation.partial:
        print_line(console, f"partial: {reason}")
    for note in evaluation.notes.values():
        print_line(console, f"note: {note.count:,} × {note.meaning}")
    print_line(console, f"Result: {result}")


def _list_unofficial(evaluation: Evaluation, options: argparse.Namespace) -> Iterator[str]:
    """Yields what was used, and is not what the official scorer uses, by a choice of the options."""
    if options.linguistics == "table" and "linguistics" in evaluation.made_by:
        yield "words are read by this project's table; the official scorers use NLTK"
    if options.similarity == "exact" and options.similar_pairs is None and "similarity" in evaluation.made_by:
        yield "equal words alone count as similar; the official scorer uses the vectors of en_core_web_lg"


def _show(number: float | None, digits: int) -> str:
    return "undefined" if number is None else f"{number:.{digits}f}"
