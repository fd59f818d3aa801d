"""From a file of answers to an evaluation: reads, scores, adds up, resamples. `result_folder.py` writes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmdpo.benchmarks.answers import Answers, read_answers
from mmdpo.benchmarks.definitions import AskingJudge, BenchmarkItem, BenchmarkItems, ItemScore, Metric, Sums, Tools
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.stats import (
    LEVEL,
    RESAMPLES,
    CountTable,
    Interval,
    bootstrap,
    count_items,
    exists,
    visible_difference,
)
from mmdpo.benchmarks.tasks import Benchmark, load
from mmdpo.benchmarks.tolerant import holds_thoughts, take_off_thoughts

EMPTY = "empty_answer"
REPLACED = "replaced_characters"
THOUGHTS, TAKEN_OFF = "thoughts", "thoughts_taken_off"
_MEANINGS = {
    EMPTY: "empty answers, scored as the official rule scores them",
    REPLACED: "answers with halves of surrogate pairs, which are no characters; U+FFFD was scored in their place",
    THOUGHTS: "answers with a model's thoughts (<think>…</think>), scored with them; --strip_thoughts takes them off",
    TAKEN_OFF: "answers whose thoughts (<think>…</think>) were taken off before they were scored",
}
_SHOWN = 5
"""How many item ids a note names."""


@dataclass(frozen=True)
class MetricValue:
    """One number of a result, in the official unit. None stands where the official rule divides by zero."""

    value: float | None
    """As the official scorer prints it."""
    low: float | None
    """Ends of the 95 % bootstrap interval, rounded alike; None if the items share one image."""
    high: float | None
    n: int
    """BenchmarkItems that it is taken over."""
    exact: float | None
    """Not rounded."""
    standard_error: float | None
    visible_difference: float | None
    """The smallest true difference to an independent run of as many items that is found four times out of five."""
    unit: str
    better: str


@dataclass(frozen=True)
class Coverage:
    """How much of a part of the benchmark the result stands on."""

    items: int
    answered: int
    scored: int


@dataclass(frozen=True)
class Note:
    """Something that a reader of the numbers should know."""

    count: int
    items: int
    first: tuple[str, ...]
    """Ids of the first items concerned; for empty answers, file and line."""
    meaning: str


@dataclass(frozen=True)
class Evaluation:
    """A scored run."""

    benchmark: str
    metrics: Mapping[str, MetricValue]
    coverage: Mapping[str, Coverage]
    partial: tuple[str, ...]
    """Why the result is partial; empty if it is not."""
    notes: Mapping[str, Note]
    made_by: Mapping[str, str]
    """What produced the numbers: linguistics, similarity, judge, ground truth."""
    statistics: Mapping[str, Any]
    items: tuple[BenchmarkItem, ...]
    scores: Mapping[str, ItemScore]
    answers: Answers


def evaluate_answers(
    name: str,
    answers: str | Path,
    data_dir: str | Path,
    tools: Tools,
    *,
    allow_partial: bool = False,
    strip_thoughts: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Scores a file of answers to a benchmark.

    `data_dir` is the benchmark's folder or the folder that holds it. Parts of the benchmark that no answer belongs to
    are left out; a part that is answered in part is an error unless `allow_partial`. `strip_thoughts` takes thoughts
    (`<think>…</think>`) off before an answer is scored or shown to a judge.

    Raises:
        EvaluationError: data or answers cannot be used; says which file and line.
        ImportError: a tool is not installed.
    """
    benchmark, folder = load(name), find_data(name, data_dir)
    items = benchmark.read_items(folder, tools)
    by_id = BenchmarkItems.build(items)
    found = read_answers(Path(answers), name, by_id, benchmark.find_id, allow_cut=allow_partial)
    incomplete = [] if allow_partial else _find_missing(by_id, found)
    if incomplete:
        raise EvaluationError(
            f"{answers}: {'; '.join(incomplete)}. Answer them, or score the rest as partial (--partial)"
        )
    if strip_thoughts:
        tools.used["thoughts"] = "taken off before scoring"
    read = take_off_thoughts if strip_thoughts else str
    texts = {item.id: read(found.by_id[item.id].text) for item in items if item.id in found.by_id}
    ask_judge(benchmark, folder, tools, ((by_id[item_id], text) for item_id, text in texts.items()))
    score = benchmark.make_scorer(folder, tools)
    progress = tqdm(texts.items(), desc=f"{name} scores", unit="answer", leave=False, disable=None)
    scores = {item_id: score(by_id[item_id], text) for item_id, text in progress}
    notes = _note(benchmark, found, texts, scores)
    return _summarise(benchmark, items, found, scores, notes, tools, resamples, seed)


def find_data(name: str, data_dir: str | Path) -> Path:
    """Returns the folder of a benchmark's data: `data_dir/name` where there is one, else `data_dir`."""
    folder = Path(data_dir)
    return folder / name if (folder / name).is_dir() else folder


def build_table(items: Iterable[BenchmarkItem], scores: Mapping[str, ItemScore]) -> CountTable:
    """Returns the counts of the scored items as a table, to be added up, resampled or compared."""
    rows = [(item.id, item.image, scores[item.id].counts) for item in items if item.id in scores]
    return CountTable.build(rows)


def _find_missing(items: BenchmarkItems, answers: Answers) -> list[str]:
    """Says for each part that has an answer which of its items have none."""
    problems = []
    for part, members in items.parts.items():
        missing = [item.id for item in members if item.id not in answers.by_id]
        if missing and len(missing) < len(members):
            shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
            problems.append(f"{len(missing):,} of the {len(members):,} items of part {part} have no answer ({shown})")
    return problems


def _summarise(
    benchmark: Benchmark,
    items: tuple[BenchmarkItem, ...],
    answers: Answers,
    scores: Mapping[str, ItemScore],
    notes: Mapping[str, Note],
    tools: Tools,
    resamples: int,
    seed: int,
) -> Evaluation:
    table = build_table(items, scores)
    sums = table.sums()
    metrics = [metric for metric in benchmark.metrics if exists(metric, sums)]
    intervals = bootstrap(table, metrics, resamples=resamples, seed=seed)
    unscored = [f"{item_id} ({score.unscored})" for item_id, score in scores.items() if score.unscored]
    partial = _find_missing(BenchmarkItems.build(items), answers) + [
        f"{place}: the file breaks off" for place in answers.cut
    ]
    if unscored:
        partial.append(f"{len(unscored):,} answered items could not be scored throughout, the first is {unscored[0]}")
    return Evaluation(
        benchmark=benchmark.name,
        metrics={metric.name: _value(metric, sums, intervals.get(metric.name)) for metric in metrics},
        coverage=_cover(items, scores),
        partial=tuple(partial),
        notes=notes,
        made_by=dict(tools.used),
        statistics={"resampled": "image", "resamples": resamples, "level": LEVEL, "seed": seed},
        items=items,
        scores=scores,
        answers=answers,
    )


def _value(metric: Metric, sums: Sums, interval: Interval | None) -> MetricValue:
    exact = float(metric.compute(sums)[0])
    printed = metric.official(sums) if metric.official else exact

    def tidy(number: float) -> float | None:
        if not math.isfinite(number):
            return None
        return number if metric.digits is None else round(number, metric.digits)

    return MetricValue(
        value=tidy(printed),
        low=None if interval is None else tidy(interval.low),
        high=None if interval is None else tidy(interval.high),
        n=count_items(metric, sums),
        exact=exact if math.isfinite(exact) else None,
        standard_error=None if interval is None else interval.standard_error,
        visible_difference=None if interval is None else visible_difference(math.sqrt(2) * interval.standard_error),
        unit=metric.unit,
        better=metric.better,
    )


def _cover(items: Iterable[BenchmarkItem], scores: Mapping[str, ItemScore]) -> dict[str, Coverage]:
    numbers: dict[str, Counter[str]] = {}
    for item in items:
        part = numbers.setdefault(item.part, Counter())
        part["items"] += 1
        if item.id in scores:
            part["answered"] += 1
            part["scored"] += not scores[item.id].unscored
    return {name: Coverage(part["items"], part["answered"], part["scored"]) for name, part in numbers.items()}


def _note(
    benchmark: Benchmark, answers: Answers, texts: Mapping[str, str], scores: Mapping[str, ItemScore]
) -> dict[str, Note]:
    """Returns what a reader should know of the answers, as they are and as they were scored (`texts`)."""
    hits: dict[str, dict[str, int]] = {}
    for item_id, score in scores.items():
        answer, scored = answers.by_id[item_id], texts[item_id]
        of_text = {EMPTY: not scored.strip(), REPLACED: answer.is_mended}
        of_text[THOUGHTS if scored == answer.text else TAKEN_OFF] = holds_thoughts(answer.text)
        for trap, count in ({**score.traps, **of_text}).items():
            if count:
                hits.setdefault(trap, {})[item_id] = int(count)
    meanings = _MEANINGS | dict(benchmark.traps)
    notes = {}
    for trap, found in sorted(hits.items()):
        places = (
            [answers.by_id[item_id].row.place for item_id in list(found)[:_SHOWN]] if trap == EMPTY else list(found)
        )
        notes[trap] = Note(sum(found.values()), len(found), tuple(places[:_SHOWN]), meanings[trap])
    return notes


# -- what a judge will be asked ----------------------------------------------------------------------------------------


@dataclass
class _Listener:
    """Stands in for a judge, and notes what a scorer asks it."""

    name: str = "nobody yet"
    asked: list[tuple[BenchmarkItem, str]] = field(default_factory=list)

    def reply(self, item: BenchmarkItem, answer: str) -> None:
        self.asked.append((item, answer))


def ask_judge(benchmark: Benchmark, folder: Path, tools: Tools, answers: Iterable[tuple[BenchmarkItem, str]]) -> None:
    """Lets a judge that has to be waited for reply to all answers; does nothing where replies are at hand.

    Which answers a judge is asked about, and in what words, the scorer alone knows: it runs once for that. Raises what
    the judge raises.
    """
    if not isinstance(tools.judge, AskingJudge):
        return
    listener = _Listener()
    score = benchmark.make_scorer(
        folder, replace(tools, make_linguistics=lambda: tools.linguistics, judge=listener, used={})
    )
    for item, answer in answers:
        score(item, answer)
    tools.judge.ask_all(listener.asked)
