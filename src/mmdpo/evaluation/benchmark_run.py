"""One benchmark from its options to its result: asks a model where one is named, scores, writes and prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from mmdpo.benchmarks.definitions import Linguistics, Similarity, Tools
from mmdpo.benchmarks.evaluate import Evaluation, check_rule, evaluate_answers, find_data
from mmdpo.benchmarks.linguistics import NltkLinguistics, TableLinguistics
from mmdpo.benchmarks.reading import list_files
from mmdpo.benchmarks.result_folder import check_folder, write_evaluation
from mmdpo.benchmarks.similarity import PAIRS, PairTable, load_spacy
from mmdpo.benchmarks.stats import check_bootstrap
from mmdpo.benchmarks.tasks import Benchmark, load
from mmdpo.evaluation.download import choose_data_dir
from mmdpo.evaluation.options import EvaluationOptions, WordOptions, choose_suffix, make_answerer
from mmdpo.evaluation.publishing import build_metrics_table, push_results, write_samples
from mmdpo.files import printable
from mmdpo.folders import hold_folder, make_folder
from mmdpo.generation.questions import Answerer
from mmdpo.options import make_options
from mmdpo.tables import ARROWS

MakeAnswerer = Callable[[], Answerer]


def evaluate(
    benchmark: str,
    *,
    answers: str | Path | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> Evaluation:
    """Scores answers to a benchmark, or asks a model first, as `mmdpo eval BENCHMARK` does; prints nothing.

    `out` gets the verb's files; without it none is left. `options` are the verb's, by the names of its flags. The
    result holds what result.json, scores.jsonl and answers.jsonl do.

    Raises TypeError for an option that there is none of, or a value of another type; ValueError where nothing could be
    scored, as with `answers_only`; and what scoring and asking raise.
    """
    with nullcontext(out) if out is not None else TemporaryDirectory(prefix="mmdpo-") as folder:
        given = {"answers": answers, "model": model, "out": folder, "data_dir": data_dir, **options}
        told: list[str] = []
        chosen = make_options(EvaluationOptions, given)
        found = _run(benchmark, chosen, None, told.append)
    if found is None:
        raise ValueError(f"nothing was scored: {'; '.join(told) or 'this process is not the first'}")
    if chosen.push_to_hub is not None:
        push_results(found[0], chosen.push_to_hub)
    return found[0]


def run_benchmark(name: str, options: EvaluationOptions, make: MakeAnswerer | None = None) -> Evaluation | None:
    """Runs a benchmark, writes its result and prints it; `make` gives a model that several benchmarks share.

    Returns None where nothing is scored: in processes beside the first, with `answers_only`, without a judge that is
    needed. Raises what asking, scoring and writing raise.
    """
    found = _run(name, options, make, lambda line: print(printable(line)))
    if found is None:
        return None
    _print(*found, options)
    if options.push_to_hub is not None:
        print(printable(f"Card: {push_results(found[0], options.push_to_hub)}"))
    return found[0]


def _run(
    name: str, options: EvaluationOptions, make: MakeAnswerer | None, tell: Callable[[str], None]
) -> tuple[Evaluation, Path] | None:
    """Runs a benchmark and writes its result; returns it and its file, None as `run_benchmark`."""
    from mmdpo.evaluation.judging import check_judge, choose_judge

    check_bootstrap(options.resamples, options.seed)
    benchmark = load(name)
    check_judge(benchmark, options.judge)
    check_rule(benchmark, options.rule)
    choose_suffix(benchmark, options.asking.prompt_suffix)
    data_dir = choose_data_dir(name, options.data_dir)
    folder = find_data(name, data_dir)
    tools = make_language_tools(options.words, (folder, data_dir))
    answers, is_partial = options.answers, options.partial
    if answers is not None:
        check_folder(options.out, name, list_files(answers, name))
    else:
        outcome = _ask(benchmark, folder, options, tools, make or partial(make_answerer, options), tell)
        if outcome is None:
            return None
        answers, is_partial = outcome[0], is_partial or outcome[1]
    if options.judge.is_given:
        make_folder(options.out)  # replies are kept there from the first on
    with hold_folder(options.out) if options.out.is_dir() else nullcontext():
        judge = choose_judge(benchmark, folder, tools, options.judge, options.out, allow_missing=is_partial)
        evaluation = evaluate_answers(
            name,
            answers,
            data_dir,
            replace(tools, judge=judge, used={}),
            allow_partial=is_partial,
            strip_thoughts=options.strip_thoughts,
            rule=options.rule,
            resamples=options.resamples,
            seed=options.seed,
        )
        result = write_evaluation(evaluation, options.out)
        if options.log_samples:
            write_samples(evaluation, options.out)
    return evaluation, result


def _ask(
    benchmark: Benchmark,
    folder: Path,
    options: EvaluationOptions,
    tools: Tools,
    make: MakeAnswerer,
    tell: Callable[[str], None],
) -> tuple[Path, bool] | None:
    """Asks the model and tells how far it came.

    Returns its answers and whether some are missing, None where nothing is to be scored now.
    """
    from mmdpo.evaluation.asking import answer_benchmark

    outcome = answer_benchmark(benchmark, folder, options, tools, make())
    if not outcome.is_main:
        return None
    tell(f"{outcome.answered:,} of {outcome.items:,} items answered: {outcome.path}")
    if outcome.stopped:
        tell(f"{outcome.stopped}; the same command resumes there")
    if benchmark.needs_judge and not options.judge.is_given:
        again = f"mmdpo eval {benchmark.name} --answers {outcome.path}"
        tell(
            f"{benchmark.name} needs a judge: {again} with --judge_model M (and --judge_url for an endpoint), or with "
            "--judge_replies FILE"
        )
        return None
    is_partial = outcome.answered < outcome.items
    return None if options.asking.answers_only or not outcome.answered else (outcome.path, is_partial)


def make_language_tools(words: WordOptions, folders: tuple[Path, Path]) -> Tools:
    """Returns the language tools that the options choose; those that a benchmark does not use are never loaded.

    `folders` hold the benchmark's data, its own before the one that may hold several benchmarks.
    """

    def make_linguistics() -> Linguistics:
        beside = folders[1] / "nltk_data"
        return NltkLinguistics(words.nltk_data or (beside if beside.is_dir() else None))

    def make_similarity() -> Similarity:
        if words.similar_pairs is not None:
            return PairTable.read(words.similar_pairs)
        if words.similarity == "exact":
            return PairTable((), "equal words alone, which is not the official rule")
        try:
            return load_spacy()
        except ImportError:
            beside = next((folder / PAIRS for folder in folders if (folder / PAIRS).is_file()), None)
            if beside is None:
                raise
            return PairTable.read(beside)

    return Tools(TableLinguistics if words.linguistics == "table" else make_linguistics, make_similarity)


def _print(evaluation: Evaluation, result: Path, options: EvaluationOptions) -> None:
    words = options.words
    if options.markdown:
        print(printable(build_metrics_table(evaluation).markdown()))
    else:
        Console().print(build_metrics_table(evaluation).terminal())
    has_arrows = any(ARROWS[value.better] for value in evaluation.metrics.values())
    lines = ["↑ higher is better, ↓ lower is better"] if has_arrows else []
    lines += [f"{part}: {of.scored:,} of {of.items:,} items scored" for part, of in evaluation.coverage.items()]
    lines += [f"{tool}: {made_by}" for tool, made_by in evaluation.made_by.items()]
    if words.linguistics == "table" and "linguistics" in evaluation.made_by:
        lines.append("NOT OFFICIAL: words are read by this project's table; the official scorers use NLTK")
    if words.similarity == "exact" and words.similar_pairs is None and "similarity" in evaluation.made_by:
        told = "equal words alone count as similar; the official scorer uses the vectors of en_core_web_lg"
        lines.append(f"NOT OFFICIAL: {told}")
    lines += [f"partial: {reason}" for reason in evaluation.partial]
    lines += [f"note: {note.count:,} × {note.meaning}" for note in evaluation.notes.values()]
    lines += [f"note: {remark}" for remark in evaluation.statistics["remarks"]]
    print(printable("\n".join([*lines, f"Result: {result}"])))
