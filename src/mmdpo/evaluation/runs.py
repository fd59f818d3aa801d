"""Scored runs read again: a folder that `mmdpo eval` wrote, or a folder of such folders, as of a suite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.evaluate import read_table
from mmdpo.benchmarks.reading import EvaluationError, read_json
from mmdpo.benchmarks.stats import CountTable
from mmdpo.benchmarks.tasks import load
from mmdpo.printable import printable


@dataclass(frozen=True)
class Run:
    """What one run says of one benchmark."""

    label: str
    benchmark: str
    values: Mapping[str, float | None]
    """As its result.json prints them, over all items that it scored."""
    made_by: Mapping[str, str]
    partial: tuple[str, ...]
    table: CountTable | None
    problem: str = ""
    """Why a piece is missing; empty if none is."""


def label_folders(folders: Sequence[Path]) -> list[str]:
    """Returns the folders' names, or their paths where names do not tell them apart; all of it can be shown."""
    short = [printable(folder.resolve().name) for folder in folders]
    return short if len(set(short)) == len(short) else [printable(str(folder)) for folder in folders]


def read_runs(folder: Path, label: str) -> dict[str, Run]:
    """Reads a run, or the runs of a suite, by benchmark; what cannot be read says so in its `problem`.

    Raises EvaluationError for a folder that does not exist or holds no result.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no folder of results")
    if (folder / "result.json").exists():
        run = _read_run(folder, label, folder.name)
        return {run.benchmark: run}
    parts = sorted(part for part in folder.iterdir() if (part / "result.json").exists())
    if not parts:
        raise EvaluationError(f"{folder}: holds no result.json, nor folders that do; has `mmdpo eval` finished there?")
    return {run.benchmark: run for run in (_read_run(part, label, part.name) for part in parts)}


def _read_run(folder: Path, label: str, name: str) -> Run:
    try:
        result = read_json(folder / "result.json")
        benchmark, metrics = result["benchmark"], result["metrics"]
        values = {metric: _read_number(value["value"]) for metric, value in metrics.items()}
        made_by = {str(tool): str(name) for tool, name in result.get("made_by", {}).items()}
        partial = tuple(map(str, result.get("partial_because", ())))
        load(benchmark)
    except (EvaluationError, KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{label}: {folder / 'result.json'} cannot be read ({error}); score the run again"
        return Run(label, name, {}, {}, (), None, problem)
    try:
        table = read_table(folder)
    except (EvaluationError, OSError) as error:
        problem = f"{label}: {folder / 'scores.jsonl'} cannot be read ({error}), so {benchmark} has values alone"
        return Run(label, benchmark, values, made_by, partial, None, problem)
    return Run(label, benchmark, values, made_by, partial, table)


def _read_number(value: Any) -> float | None:
    """Returns a metric's value, None where the official rule divides by zero; raises TypeError for anything else."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise TypeError(f"a metric's value is {value!r:.40}, and no number")
