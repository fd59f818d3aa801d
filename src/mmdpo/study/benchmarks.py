"""Benchmarks inside a study: a trial's model answers them by the command `mmdpo eval`, whose result is read back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.reading import EvaluationError, read_json
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
    options = _parse([str(benchmark["name"]), f"--model={model}", f"--out={out}", *flags])
    options.verb(options)
    metrics = read_json(out / "result.json")["metrics"]
    return {
        name: BenchmarkValue(found["value"], Measure(name, found["unit"], found["better"], 2))
        for name, found in metrics.items()
    }


class _Parser(argparse.ArgumentParser):
    """argparse, with its exit turned into our error."""

    def error(self, message: str) -> Any:
        """Raises instead of leaving the process."""
        raise EvaluationError(f"evaluation: benchmarks: mmdpo eval: {message}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    from mmdpo.evaluation.command import add_eval_verb

    parser = _Parser(prog="mmdpo", exit_on_error=False)
    add_eval_verb(parser.add_subparsers(parser_class=_Parser))
    return parser.parse_args(["eval", *arguments])
