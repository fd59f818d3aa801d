"""From a file of answers to an `Evaluation`: reads, scores, adds up and resamples; `result_folder` writes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mmdpo.benchmarks.definitions import AskingJudge, BenchmarkItem, BenchmarkItems, ItemScore, Metric, Tools
from mmdpo.benchmarks.reading import ANSWER_FIELDS, Also, Answers, EvaluationError, read_answers
from mmdpo.benchmarks.stats import (
    LEVEL,
    RESAMPLES,
    CountTable,
    bootstrap,
    count_items,
    exists,
    note_few,
    visible_difference,
)
from mmdpo.benchmarks.tasks import Benchmark, load
from mmdpo.benchmarks.tolerant import holds_thoughts, take_off_thoughts
from mmdpo.progress import count

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
SUFFIX: Final = "prompt_suffix"
"""Of the settings that an answer was made with, and of what a result was made by: what was added to the questions."""
Rule: TypeAlias = Literal["official", "peers"]


@dataclass(frozen=True)
class MetricValue:
    """One number of a result over `n` items, in the official unit; None where the official rule divides by zero."""

    value: float | None
    """As the official scorer prints it; `exact` is not rounded."""
    low: float | None
    """Ends of the 95 % bootstrap interval, rounded alike; None if the items share one image."""
    high: float | None
    n: int
    exact: float | None
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
    """Something that a reader of the numbers should know; `first` are ids, for empty answers file and line."""

    count: int
    items: int
    first: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Evaluation:
    """A scored run; `partial` says why it is, `made_by` what produced the numbers (language tools, judge, truth)."""

    benchmark: str
    metrics: Mapping[str, MetricValue]
    coverage: Mapping[str, Coverage]
    partial: tuple[str, ...]
    notes: Mapping[str, Note]
    made_by: Mapping[str, str]
    statistics: Mapping[str, Any]
    items: tuple[BenchmarkItem, ...]
    scores: Mapping[str, ItemScore]
    answers: Answers

    def __repr__(self) -> str:
        """The numbers alone: items and answers would fill a notebook."""
        lines = [f"{name}: {of.value} [{of.low}, {of.high}] {of.unit}, n {of.n}" for name, of in self.metrics.items()]
        partial = ", partial" if self.partial else ""
        return "\n".join(
            [f"{self.benchmark}, {len(self.scores):,} of {len(self.items):,} items scored{partial}", *lines]
        )


def evaluate_answers(
    name: str,
    answers: str | Path,
    data_dir: str | Path,
    tools: Tools,
    *,
    allow_partial: bool = False,
    strip_thoughts: bool = False,
    rule: Rule = "official",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Scores a file of answers to a benchmark.

    `data_dir` is the benchmark's folder or the folder that holds it. Parts of the benchmark that no answer belongs to
    are left out; a part that is answered in part is an error unless `allow_partial`. `strip_thoughts` takes thoughts
    (`<think>…</think>`) off before an answer is scored or shown to a judge. With `rule="peers"` the result also has
    what other evaluation harnesses would print for the same answers.

    Raises EvaluationError, with file and line, for data or answers that cannot be used; ImportError for a tool that is
    not installed; ValueError where the benchmark states no rule of others.
    """
    benchmark, folder = load(name), find_data(name, data_dir)
    check_rule(benchmark, rule)
    items = benchmark.read_items(folder, tools)
    by_id = BenchmarkItems.build(items)
    if len(by_id) < len(items):
        twice = next(name for name, times in Counter(item.id for item in items).items() if times > 1)
        raise EvaluationError(f"{folder}: two items of {name} have the id {twice!r}; the data is damaged, or another's")
    if benchmark.size not in (None, len(items)):
        tools.used["data"] = f"{len(items):,} items, where {benchmark.size:,} are published: another version, or a part"
    also = None if benchmark.unasked_ids is None else Also(benchmark.answers_of, benchmark.unasked_ids(folder))
    how: dict[str, Any] = {"fields": benchmark.answer_fields or ANSWER_FIELDS, "also": also, "allow_cut": allow_partial}
    found = read_answers(Path(answers), name, by_id, benchmark.find_id, **how)
    if also is not None and also.left_out:
        tools.used["answers"] = f"{len(also.left_out):,} answers to other questions of {also.benchmark} are left out"
    missing = _find_missing(by_id, found, in_groups=benchmark.score_together is not None)
    if missing and not allow_partial:
        raise EvaluationError(f"{answers}: {'; '.join(missing)}. Answer them, or score the rest as partial (--partial)")
    if strip_thoughts:
        tools.used["thoughts"] = "taken off before scoring"
    read = take_off_thoughts if strip_thoughts else str
    texts = {item.id: read(found.by_id[item.id].text) for item in items if item.id in found.by_id}
    ask_judge(benchmark, folder, tools, [(by_id[item_id], text) for item_id, text in texts.items()])
    score = benchmark.make_scorer(folder, tools)
    scores = {of: score(by_id[of], text) for of, text in count(texts.items(), f"{name} scores", "answer")}
    if wrong := [of for of in scores.values() if not isinstance(of, ItemScore)]:
        raise EvaluationError(f"{name}: its scorer returned a {type(wrong[0]).__name__}, not an ItemScore")
    if benchmark.score_together is not None:
        scores = dict(benchmark.score_together(items, texts, scores, tools))
    for name_of in benchmark.settings_told:
        said = sorted({str(settings.get(name_of)) for settings in found.settings if settings})
        tools.used[name_of] = " and ".join(said) or "not known"
    metrics = benchmark.metrics
    if rule == "peers":
        metrics = benchmark.all_metrics
        scores = {item_id: _add_peers(benchmark, by_id[item_id], texts[item_id], of) for item_id, of in scores.items()}
        tools.used.update({peer: of.source for peer, of in benchmark.peers.items()})
    suffixes = dict.fromkeys(settings.get(SUFFIX) for settings in found.settings)
    if any(suffixes):
        tools.used[SUFFIX] = " and ".join("nothing" if text is None else repr(text) for text in suffixes)
    partial = [*missing, *(f"{place}: the file breaks off" for place in found.cut)]
    unscored = [f"{item_id} ({score.unscored})" for item_id, score in scores.items() if score.unscored]
    if unscored:
        partial.append(f"{len(unscored):,} answered items could not be scored throughout, the first is {unscored[0]}")
    table = tabulate_counts(items, scores)
    resampled = "group" if any(item.group for item in items) else "image"
    return Evaluation(
        benchmark=name,
        metrics=_measure(metrics, table, resamples, seed),
        coverage={part: _cover(members, scores) for part, members in by_id.parts.items()},
        partial=tuple(partial),
        notes=_note(benchmark, found, texts, scores),
        made_by=dict(tools.used),
        statistics={
            "resampled": resampled,
            "remarks": note_few(table.groups, f"{resampled}s"),
            "resamples": resamples,
            "level": LEVEL,
            "seed": seed,
        },
        items=items,
        scores=scores,
        answers=found,
    )


def check_rule(benchmark: Benchmark, rule: Rule) -> None:
    """Raises ValueError for `peers` where the benchmark states no rule of others."""
    if rule == "peers" and not benchmark.peers:
        raise ValueError(f"--rule peers: no other harness's rule is known for {benchmark.name}; leave --rule out")


def _add_peers(benchmark: Benchmark, item: BenchmarkItem, text: str, score: ItemScore) -> ItemScore:
    counts = dict(score.counts)
    for peer in benchmark.peers.values():
        counts |= peer.count(item, text, score)
    return replace(score, counts=counts)


def find_data(name: str, data_dir: str | Path) -> Path:
    """Returns the folder of a benchmark's data: `data_dir/name` where there is one, else `data_dir`.

    A benchmark that shares another's data has it in the folder of that name.
    """
    own = Path(data_dir) / load(name).data_name
    return own if own.is_dir() else Path(data_dir)


def tabulate_counts(items: Iterable[BenchmarkItem], scores: Mapping[str, ItemScore]) -> CountTable:
    """Returns the counts of the scored items as a table, to be added up, resampled or compared."""
    return CountTable.build([(item.id, item.cluster, scores[item.id].counts) for item in items if item.id in scores])


def _find_missing(items: BenchmarkItems, answers: Answers, *, in_groups: bool) -> list[str]:
    """Says for each part that has an answer which of its items have none."""
    problems = []
    for part, members in items.parts.items():
        missing = [item.id for item in members if item.id not in answers.by_id]
        if missing and len(missing) < len(members):
            shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
            cut = {item.group for item in members if item.id not in answers.by_id} - {""}
            cut &= {item.group for item in members if item.id in answers.by_id}
            why = f", which leaves {len(cut):,} of its groups incomplete ({min(cut)})" if cut and in_groups else ""
            problems.append(
                f"{len(missing):,} of the {len(members):,} items of part {part} have no answer ({shown}){why}"
            )
    return problems


def _measure(metrics: Iterable[Metric], table: CountTable, resamples: int, seed: int) -> dict[str, MetricValue]:
    sums = table.sums()
    there = [metric for metric in metrics if exists(metric, sums)]
    intervals = bootstrap(table, there, resamples=resamples, seed=seed)
    values = {}
    for metric in there:
        exact, interval = float(metric.compute(sums)[0]), intervals.get(metric.name)
        error = None if interval is None else interval.standard_error
        values[metric.name] = MetricValue(
            value=_tidy(metric.official(sums) if metric.official else exact, metric.digits),
            low=None if interval is None else _tidy(interval.low, metric.digits),
            high=None if interval is None else _tidy(interval.high, metric.digits),
            n=count_items(metric, sums),
            exact=_tidy(exact, None),
            standard_error=error,
            visible_difference=None if error is None else visible_difference(math.sqrt(2) * error),
            unit=metric.unit,
            better=metric.better,
        )
    return values


def _tidy(number: float, digits: int | None) -> float | None:
    if not math.isfinite(number):
        return None
    return number if digits is None else round(number, digits)


def _cover(members: Iterable[BenchmarkItem], scores: Mapping[str, ItemScore]) -> Coverage:
    ids = [item.id for item in members]
    answered = [scores[item_id] for item_id in ids if item_id in scores]
    return Coverage(len(ids), len(answered), sum(not score.unscored for score in answered))


def _note(
    benchmark: Benchmark, answers: Answers, texts: Mapping[str, str], scores: Mapping[str, ItemScore]
) -> dict[str, Note]:
    """Returns what a reader should know of the answers, as they are and as they were scored (`texts`)."""
    hits: dict[str, dict[str, int]] = {}
    meanings = _MEANINGS | dict(benchmark.traps)
    for item_id, score in scores.items():
        answer, scored = answers.by_id[item_id], texts[item_id]
        of_text = {EMPTY: not scored.strip(), REPLACED: answer.is_mended}
        of_text[THOUGHTS if scored == answer.text else TAKEN_OFF] = holds_thoughts(answer.text)
        for trap, times in ({**score.traps, **of_text}).items():
            if times and trap not in meanings:
                raise EvaluationError(f"{benchmark.name}: its TRAPS do not say what {trap!r} means")
            if times:
                hits.setdefault(trap, {})[item_id] = int(times)
    notes = {}
    for trap, found in sorted(hits.items()):
        ids = list(found)[:_SHOWN]
        places = [answers.by_id[item_id].row.place for item_id in ids] if trap == EMPTY else ids
        notes[trap] = Note(sum(found.values()), len(found), tuple(places), meanings[trap])
    return notes


@dataclass
class _Listener:
    """Stands in for a judge, and notes what a scorer asks it."""

    name: str = "nobody yet"
    asked: list[tuple[BenchmarkItem, str]] = field(default_factory=list)

    def reply(self, item: BenchmarkItem, answer: str) -> None:
        self.asked.append((item, answer))


def ask_judge(benchmark: Benchmark, folder: Path, tools: Tools, answers: Sequence[tuple[BenchmarkItem, str]]) -> None:
    """Lets a judge that is waited for reply to all answers; which they are, the scorer says by running once."""
    if not isinstance(tools.judge, AskingJudge):
        return
    listener = _Listener()
    heard = replace(tools, make_linguistics=lambda: tools.linguistics, judge=listener, used={})
    score = benchmark.make_scorer(folder, heard)
    for item, answer in count(answers, f"{benchmark.name}, questions to the judge", "answer"):
        score(item, answer)
    tools.judge.ask_all(listener.asked)
