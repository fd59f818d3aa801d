"""Two or more runs on the same items: every metric of each, the difference to the first, and how sure it is.

A run is a folder that `mmdpo eval` wrote, or a folder of such folders as `mmdpo eval suite` writes. Differences are
taken over the items that both runs have scored, by a paired bootstrap (`mmdpo.benchmarks.stats`).

compare.json, compare.csv   every row, unrounded
compare.md, compare.png, compare.svg
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.benchmarks.definitions import Metric
from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.result_folder import read_table
from mmdpo.benchmarks.stats import (
    LEVEL,
    RESAMPLES,
    CountTable,
    Difference,
    check_bootstrap,
    exists,
    items_needed,
    note_few,
    paired_differences,
)
from mmdpo.benchmarks.tasks import load, names
from mmdpo.files import clean, printable, write_json, write_whole
from mmdpo.folders import make_folder


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of a run beside the first run's. None stands for what is not known."""

    benchmark: str
    metric: str
    unit: str
    better: str
    run: str
    first_value: float | None
    value: float | None
    difference: float | None = None
    """Not rounded: value minus first_value over the items that both have scored."""
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    excludes_zero: bool | None = None
    items: int | None = None
    """Items that both have scored."""
    items_needed: int | None = None
    """How many would show a true difference of this size four times out of five."""


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other: their labels, the one that differences are taken to first, and pieces that are missing.

    `notes` are what a reader of the differences should know: other judges, other items, partial results.
    """

    runs: tuple[str, ...]
    rows: tuple[ComparedMetric, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    statistics: Mapping[str, Any]


def compare_runs(
    folders: Sequence[Path], *, labels: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares every run with the first, benchmark by benchmark; the runs are called by `labels`, else by their names.

    Raises EvaluationError for fewer than two folders, one that does not exist, or no benchmark that the first run and
    another have both been scored on.
    """
    check_bootstrap(resamples, seed)
    if len(folders) < 2:
        raise EvaluationError("a comparison needs two runs at least")
    labels = label_folders(folders) if labels is None else list(labels)
    runs = [read_runs(folder, label) for folder, label in zip(folders, labels, strict=True)]
    rows: list[ComparedMetric] = []
    notes: list[str] = []
    missing = [run.problem for found in runs for run in found.values() if run.problem]
    for kind in (name for name in names() if any(name in found for found in runs)):
        for label, found in zip(labels, runs, strict=True):
            if kind not in found:
                missing.append(f"{label}: no result of {kind}")
            elif found[kind].partial:
                notes.append(f"{label}, {kind}: partial: {'; '.join(found[kind].partial)}")
        for label, found in zip(labels[1:], runs[1:], strict=True):
            rows += _compare(kind, label, runs[0].get(kind), found.get(kind), notes, resamples, seed)
    if not any(row.difference is not None for row in rows):
        held = "; ".join(f"{label}: {', '.join(found) or 'none'}" for label, found in zip(labels, runs, strict=True))
        why = f". {'. '.join(missing)}" if missing else ""
        raise EvaluationError(f"no metric that {labels[0]} and another run both have (benchmarks of {held}){why}")
    kinds = {run.resampled for found in runs for run in found.values()}
    resampled = " or ".join(kind for kind in ("image", "group") if kind in kinds) or "image"
    statistics = {"level": LEVEL, "resamples": resamples, "seed": seed, "resampled": resampled}
    return Comparison(tuple(labels), tuple(rows), tuple(dict.fromkeys(notes)), tuple(missing), statistics)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Writes compare.json, .csv, .md, .png and .svg into a folder; returns the path of the PNG."""
    from mmdpo.report.comparison import csv_comparison, draw_comparison, markdown_comparison

    make_folder(out)
    content = as_content(comparison)
    write_json(out / "compare.json", content)
    write_whole(out / "compare.csv", csv_comparison(content))
    write_whole(out / "compare.md", markdown_comparison(content))
    return draw_comparison(content, out / "compare.png")


def as_content(comparison: Comparison) -> dict[str, Any]:
    """Returns the content of compare.json."""
    return dict(clean(asdict(comparison)))


def _compare(
    kind: str, label: str, first: ScoredRun | None, run: ScoredRun | None, notes: list[str], resamples: int, seed: int
) -> Iterator[ComparedMetric]:
    """Yields the rows of one run beside the first, in the benchmark's order; a missing side leaves its values out."""
    differences: dict[str, dict[str, Any]] = {}
    if first is not None and run is not None:
        notes += explain_tools(kind, (first.label, first.made_by), (run.label, run.made_by))
        differences = _differ(kind, first, run, notes, resamples, seed)
    for metric in load(kind).all_metrics:
        values = [None if side is None else side.values.get(metric.name) for side in (first, run)]
        if metric.name in differences or any(value is not None for value in values):
            known = {"first_value": values[0], "value": values[1]} | differences.get(metric.name, {})
            yield ComparedMetric(kind, metric.name, metric.unit, metric.better, label, **known)


def _differ(
    kind: str, first: ScoredRun, run: ScoredRun, notes: list[str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Returns the differences over the items that both runs have scored: metric → fields of `ComparedMetric`."""
    if first.table is None or run.table is None:
        return {}
    common = frozenset(first.table.ids) & frozenset(run.table.ids)
    if not common:
        notes.append(f"{kind}: {first.label} and {run.label} share no item, so they are not compared")
        return {}
    if len(common) < max(len(first.table.ids), len(run.table.ids)):
        notes.append(
            f"{kind}: {run.label} and {first.label} are compared, and their values shown, on the {len(common):,} items "
            f"that both have scored ({len(first.table.ids):,} in {first.label}, {len(run.table.ids):,} in {run.label})"
        )
    tables = [table.keep(common) for table in (first.table, run.table)]
    images = [dict(zip(table.ids, table.groups, strict=True)) for table in tables]
    if images[0] != images[1]:
        notes.append(f"{kind}: {first.label} and {run.label} name other images for one item, so they are not compared")
        return {}
    notes += [f"{kind}: {note}" for note in note_few(tables[0].groups, f"{run.resampled}s in common")]
    differences = {}
    for metrics, kept in _by_items(load(kind).all_metrics, tables):
        both = [table.keep(kept) for table in tables]
        if len(kept) < len(common):
            notes.append(
                f"{', '.join(metric.name for metric in metrics)}: {len(common) - len(kept):,} items are left out, "
                f"unscored in {first.label} or {run.label}"
            )
        by_name = {metric.name: metric for metric in metrics}
        for found in paired_differences(both[0], both[1], metrics, resamples=resamples, seed=seed):
            differences[found.name] = _describe(by_name[found.name], found, first, run)
    return differences


def _by_items(metrics: Sequence[Metric], tables: Sequence[CountTable]) -> list[tuple[list[Metric], frozenset[str]]]:
    """Groups the metrics by the items that no run alone has left unscored: a pair needs both."""
    groups: dict[frozenset[str], list[Metric]] = {}
    ids = frozenset(tables[0].ids)
    for metric in metrics:
        if all(exists(metric, table.sums()) for table in tables):
            scored = []
            for table in tables:
                columns = [table.names.index(name) for name in metric.over if name in table.names]
                is_scored = table.values[:, columns].sum(axis=1) > 0
                scored.append(frozenset(np.asarray(table.ids, dtype=object)[is_scored]))
            groups.setdefault(ids - (scored[0] ^ scored[1]), []).append(metric)
    return [(members, kept) for kept, members in groups.items() if kept]


def _describe(metric: Metric, difference: Difference, first: ScoredRun, run: ScoredRun) -> dict[str, Any]:
    """Returns a difference, and both values over the same items: as printed where these are all items."""
    shown: list[float | None] = []
    for side, exact in ((first, difference.first), (run, difference.second)):
        assert side.table is not None
        tidy = exact if metric.digits is None else round(exact, metric.digits)
        whole = float(metric.compute(side.table.sums())[0])
        is_whole = math.isclose(whole, exact, rel_tol=1e-9, abs_tol=1e-12)
        value = side.values.get(metric.name, tidy) if is_whole else tidy
        shown.append(value if value is None or math.isfinite(value) else None)
    known: dict[str, Any] = {"first_value": shown[0], "value": shown[1]}
    size, interval = difference.difference, difference.interval
    if math.isfinite(size):
        known |= {"difference": size, "items": difference.n}
        if interval is not None:
            error = interval.standard_error
            # A difference has to show in the digits that are printed.
            is_shown = metric.digits is None or round(size, metric.digits) != 0
            known |= {"low": interval.low, "high": interval.high, "standard_error": error}
            known |= {"excludes_zero": difference.excludes_zero and is_shown}
            known |= {"items_needed": items_needed(size, error, difference.n) if size and error else None}
    return known


def explain_tools(
    kind: str, first: tuple[str, Mapping[str, str]], second: tuple[str, Mapping[str, str]]
) -> Iterator[str]:
    """Yields a note for each tool that two runs of a benchmark do not share; a run is its label and its `made_by`."""
    # What others would print changes no number of the official rule.
    for tool in sorted({*first[1], *second[1]} - set(load(kind).peers)):
        used = [made_by.get(tool, "none") for _, made_by in (first, second)]
        if used[0] != used[1]:
            yield (
                f"{kind}: not the same {tool}: {used[0]} in {first[0]}, {used[1]} in {second[0]}; the differences mix "
                "that with what the models do"
            )


# -- runs read again --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredRun:
    """What one run says of one benchmark, and which problem a missing piece has.

    `values` are as its result.json prints them, over all items that it scored.
    """

    label: str
    benchmark: str
    values: Mapping[str, float | None]
    made_by: Mapping[str, str]
    partial: tuple[str, ...]
    table: CountTable | None
    problem: str = ""
    resampled: str = "image"


def label_folders(folders: Sequence[Path]) -> list[str]:
    """Returns the folders' names, or their paths where names do not tell them apart; all of it can be shown."""
    short = [printable(folder.resolve().name) for folder in folders]
    return short if len(set(short)) == len(short) else [printable(str(folder)) for folder in folders]


def read_runs(folder: Path, label: str) -> dict[str, ScoredRun]:
    """Reads a run, or a suite's, by benchmark; raises EvaluationError for a folder without results."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no folder of results")
    if (folder / "result.json").exists():
        run = _read_result(folder, label, folder.name)
        return {run.benchmark: run}
    parts = sorted(part for part in folder.iterdir() if (part / "result.json").exists())
    if not parts:
        raise EvaluationError(f"{folder}: holds no result.json, nor folders that do; has `mmdpo eval` finished there?")
    runs: dict[str, ScoredRun] = {}
    for part in parts:
        run = _read_result(part, label, part.name)
        check_single(folder, run.benchmark, part.name, runs)
        runs[run.benchmark] = run
    return runs


def check_single(folder: Path, benchmark: str, name: str, known: Collection[str]) -> None:
    """Raises EvaluationError for a second result of a benchmark in a folder, where one is looked for."""
    if benchmark in known:
        raise EvaluationError(
            f"{folder}: holds two results of {benchmark} or more, one of them in {name}; name the folder of the one "
            "that is meant"
        )


def _read_result(folder: Path, label: str, name: str) -> ScoredRun:
    try:
        result = read_data(folder / "result.json")
        benchmark, metrics = result["benchmark"], result["metrics"]
        values = {metric: _read_number(value["value"]) for metric, value in metrics.items()}
        made_by = {str(tool): str(name) for tool, name in result.get("made_by", {}).items()}
        partial = tuple(map(str, result.get("partial_because", ())))
        resampled = str(result.get("statistics", {}).get("resampled", "image"))
        load(benchmark)
    except (EvaluationError, KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{label}: {folder / 'result.json'} cannot be read ({error}); score the run again"
        return ScoredRun(label, name, {}, {}, (), None, problem)
    try:
        table = read_table(folder)
    except (EvaluationError, OSError) as error:
        problem = f"{label}: {folder / 'scores.jsonl'} cannot be read ({error}), so {benchmark} has values alone"
        return ScoredRun(label, benchmark, values, made_by, partial, None, problem)
    return ScoredRun(label, benchmark, values, made_by, partial, table, resampled=resampled)


def _read_number(value: Any) -> float | None:
    """Returns a metric's value, None where the official rule divides by zero; raises TypeError for anything else."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise TypeError(f"a metric's value is {value!r:.40}, and no number")
