"""Benchmarks inside a study: a trial's model answers them by the command `mmdpo eval`, whose result is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.evaluation.options import EvaluationOptions
from mmdpo.evaluation.run import run_benchmark
from mmdpo.options import UsageError, parse_options
from mmdpo.study.measures import Measure


@dataclass(frozen=True)
class BenchmarkValue:
    """One number of a benchmark."""

    value: float | None
    measure: Measure


def answer_benchmark(benchmark: Mapping[str, Any], model: str, out: Path) -> dict[str, BenchmarkValue]:
    """Lets a model answer a benchmark and scores the answers into the folder `out`; returns the numbers by name.

    Every key of `benchmark` but its name is an option of `mmdpo eval`, and passed on to it.
    Raises EvaluationError for an option that it does not have, and what answering and scoring raise.
    """
    flags = [f"--{key}={value}" for key, value in benchmark.items() if key != "name" and not isinstance(value, bool)]
    flags += [f"--{key}" for key, value in benchmark.items() if value is True]
    name = str(benchmark["name"])
    try:
        options = parse_options(EvaluationOptions, [f"--model={model}", f"--out={out}", *flags], f"eval {name}")
    except UsageError as error:
        raise EvaluationError(f"evaluation: benchmarks: {error}") from error
    run_benchmark(name, options)
    metrics = read_data(out / "result.json")["metrics"]
    return {
        name: BenchmarkValue(found["value"], Measure(name, found["unit"], found["better"], 2))
        for name, found in metrics.items()
    }
