"""From a file of answers to a result: reads, scores, adds up, resamples, and writes the folder of the result.

answers.jsonl   one line per item: id, prompt, image, answer, generation settings if they are known
scores.jsonl    one line per item: counts, and the reason of each
result.json     metrics with intervals, coverage, what the official rule could not see, what produced the numbers
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mmdpo.benchmarks.definitions import AskingJudge, BenchmarkItem, BenchmarkItems, ItemScore, Metric, Tools
from mmdpo.benchmarks.reading import ANSWER_FIELDS, Also, Answers, EvaluationError, read_answers, read_data, read_rows
from mmdpo.benchmarks.stats import LEVEL, RESAMPLES, CountTable, bootstrap, count_items, exists, visible_difference
from mmdpo.benchmarks.tasks import Benchmark, load
from mmdpo.benchmarks.tolerant import holds_thoughts, take_off_thoughts
from mmdpo.files import make_folder, write_json, write_rows
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
ANSWERS, SCORES, RESULT = "answers.jsonl", "scores.jsonl", "result.json"
_LARGEST_COUNT = 1e15
"""Of anything in one answer; what is no number is not below it."""


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
    return Evaluation(
        benchmark=name,
        metrics=_measure(metrics, build_table(items, scores), resamples, seed),
        coverage={part: _cover(members, scores) for part, members in by_id.parts.items()},
        partial=tuple(partial),
        notes=_note(benchmark, found, texts, scores),
        made_by=dict(tools.used),
        statistics={
            "resampled": "group" if any(item.group for item in items) else "image",
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


def build_table(items: Iterable[BenchmarkItem], scores: Mapping[str, ItemScore]) -> CountTable:
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
    for item_id, score in scores.items():
        answer, scored = answers.by_id[item_id], texts[item_id]
        of_text = {EMPTY: not scored.strip(), REPLACED: answer.is_mended}
        of_text[THOUGHTS if scored == answer.text else TAKEN_OFF] = holds_thoughts(answer.text)
        for trap, times in ({**score.traps, **of_text}).items():
            if times:
                hits.setdefault(trap, {})[item_id] = int(times)
    meanings = _MEANINGS | dict(benchmark.traps)
    notes = {}
    for trap, found in sorted(hits.items()):
        ids = list(found)[:_SHOWN]
        places = [answers.by_id[item_id].row.place for item_id in ids] if trap == EMPTY else ids
        notes[trap] = Note(sum(found.values()), len(found), tuple(places), meanings[trap])
    return notes


# -- what a judge will be asked ---------------------------------------------------------------------------------------


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


# -- the folder of a result -------------------------------------------------------------------------------------------


def check_folder(folder: Path, benchmark: str, answers: Iterable[Path] = ()) -> None:
    """Raises EvaluationError for a folder that holds something else than a run on these files of answers.

    That is a file, the result of another benchmark, or answers of a model, which may have taken hours, beside
    `answers` from elsewhere.
    """
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"{folder}: is a file; --out names a folder")
    result, own = folder / RESULT, folder / ANSWERS
    other = read_data(result).get("benchmark") if result.exists() else benchmark
    if other != benchmark:
        raise EvaluationError(f"{result}: holds a result of {other}; choose another --out for {benchmark}")
    files = [file.resolve() for file in answers]
    # `details` are what `mmdpo eval --model` says of each answer; a file that was scored has none.
    is_other = files and own.exists() and own.resolve() not in files
    if is_other and any("details" in row.values for row in read_rows(own)):
        raise EvaluationError(
            f"{own}: holds the answers that a model gave here, and would be overwritten; choose another --out"
        )


def write_evaluation(evaluation: Evaluation, out: str | Path) -> Path:
    """Writes answers.jsonl, scores.jsonl and result.json into the folder `out`; returns the path of the last.

    Raises EvaluationError for a folder that holds something else (`check_folder`), UnusableFileError where the disk
    takes no more.
    """
    folder = Path(out)
    check_folder(folder, evaluation.benchmark, evaluation.answers.files)
    make_folder(folder)
    if (folder / ANSWERS).resolve() not in [file.resolve() for file in evaluation.answers.files]:
        write_rows(folder / ANSWERS, _answer_rows(evaluation))
    scored = [item for item in evaluation.items if item.id in evaluation.scores]
    about = (
        {"id": item.id, "part": item.part, "image": item.image} | ({"group": item.group} if item.group else {})
        for item in scored
    )
    rows = (head | vars(evaluation.scores[item.id]) for head, item in zip(about, scored, strict=True))
    write_rows(folder / SCORES, rows)
    write_json(folder / RESULT, _as_result(evaluation))
    return folder / RESULT


def read_table(run: str | Path) -> CountTable:
    """Returns the counts of a run that was written before; raises EvaluationError if `scores.jsonl` is damaged."""
    rows: dict[str, tuple[str, str, Mapping[str, float]]] = {}
    for row in read_rows(Path(run) / SCORES):
        item_id, image, counts = (row.values.get(name) for name in ("id", "image", "counts"))
        group = row.values.get("group", image)
        numbers = counts.values() if isinstance(counts, dict) else ("none",)
        are_counts = all(isinstance(count, int | float) and abs(count) < _LARGEST_COUNT for count in numbers)
        if not (isinstance(item_id, str) and isinstance(image, str) and isinstance(group, str) and are_counts):
            raise EvaluationError(f"{row.place}: no score of an item, which has id, image and counts")
        if item_id in rows:
            raise EvaluationError(f"{row.place}: a second score of item {item_id}")
        rows[item_id] = (item_id, group, row.values["counts"])
    return CountTable.build(list(rows.values()))


def _answer_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for item in evaluation.items:
        if item.id in evaluation.answers.by_id:
            answer = evaluation.answers.by_id[item.id]
            row = {"id": item.id, "benchmark": evaluation.benchmark, "prompt": item.prompt, "image": item.image}
            # What a model was asked has its suffix; an official file's own field is the same question or another thing.
            kept = ("prompt", "generation") if "generation" in answer.row.values else ()
            known = {name: answer.row.values[name] for name in kept if name in answer.row.values}
            yield row | {"answer": answer.text} | known


def _as_result(evaluation: Evaluation) -> dict[str, Any]:
    files = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in evaluation.answers.files}
    settings = filter(None, evaluation.answers.settings)
    generation = {json.dumps(of, sort_keys=True): of for of in settings}
    return {
        "benchmark": evaluation.benchmark,
        "partial": bool(evaluation.partial),
        "partial_because": evaluation.partial,
        "coverage": {part: asdict(coverage) for part, coverage in evaluation.coverage.items()},
        "metrics": {name: asdict(value) for name, value in evaluation.metrics.items()},
        "notes": {trap: asdict(note) for trap, note in evaluation.notes.items()},
        "made_by": evaluation.made_by,
        "statistics": evaluation.statistics,
        "answers": {"sha256": files, "generation": list(generation.values())},
    }
