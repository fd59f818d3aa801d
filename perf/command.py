"""What measurements share: their command line, processes timed as a whole, figures of several runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.record import RESULTS, summarise, write_result

Figures = dict[str, float]


def make_parser(description: str | None, repetitions: int | None, *, tiny: str = "") -> argparse.ArgumentParser:
    """Returns the command line of a measurement, which `read_options` reads. `tiny` says what a trial is, if any."""
    parser = argparse.ArgumentParser(description=description)
    if repetitions is not None:
        parser.add_argument("--repetitions", type=int, default=repetitions, help="timed runs of every side")
    if tiny:
        parser.add_argument("--tiny", action="store_true", help=f"{tiny}: tries the measurement, measures nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    return parser


def read_options(
    parser: argparse.ArgumentParser, is_trial: Callable[[Any], bool] = lambda options: options.tiny
) -> argparse.Namespace:
    """Returns what was typed; a trial needs a folder of its own."""
    options = parser.parse_args()
    if is_trial(options) and options.output == RESULTS:
        parser.error("a trial measures nothing that belongs among the results: give another --output")
    return options


def write_measured(result: dict[str, Any], options: argparse.Namespace, kind: str) -> None:
    """Writes a results file, with the load at the end."""
    result["load_after"] = os.getloadavg()[0]
    print(f"written to {write_result(result, options.output, prefix=f'{kind}-')}")


def time_in_turn(
    sides: Mapping[str, Callable[[], Figures]], repetitions: int, *, warm_up: int = 0
) -> dict[str, dict[str, Any]]:
    """Returns the figures of every side, measured in turn, after so many times that do not count."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(repetitions + warm_up):
        for name, side in sides.items():
            found[name].append(side())
        print(f"{number + 1} of {repetitions + warm_up}: {[runs[-1] for runs in found.values()]}", flush=True)
    return {name: summarise_runs(runs[warm_up:]) for name, runs in found.items()}


def summarise_runs(runs: Sequence[Figures]) -> dict[str, Any]:
    """Returns each figure over several runs."""
    return {figure: summarise([run[figure] for run in runs]) for figure in runs[0]}


def time_mmdpo(*words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Figures:
    """Returns wall and CPU seconds and the most memory, in GiB, of a command of mmdpo as a process of its own."""
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "mmdpo", *words]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=os.environ | (environment or {}), cwd=folder, text=True
    )
    found: Figures = json.loads(done.stdout)
    return found


_MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - start
print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "gib": used.ru_maxrss / 2**20}))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts the command from a small process: Linux counts what the one that starts another holds among its most."""
