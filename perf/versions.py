"""Two versions of mmdpo measured in turn, so that what else the machine does meets both: a process for each.

A measurement takes `--before FOLDER`, a checkout of another version (`git worktree add FOLDER COMMIT`). For each of the
two it starts itself with `--turns` and what to measure; that process takes one turn whenever a line is sent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perf.record import ROOT

Turn = dict[str, Any]


def add_before(parser: argparse.ArgumentParser) -> None:
    """Adds `--before`, and `--turns` for the processes of the versions."""
    parser.add_argument("--before", type=Path, help="checkout of another version, to be measured in turn")
    parser.add_argument("--turns", nargs="+", help=argparse.SUPPRESS)


def compare_versions(module: str, before: Path, measured: Sequence[str], turns: int) -> dict[str, Any]:
    """Returns what `module` measures in each version, so many turns of each after one that does not count.

    `measured` is what follows `--turns`, further options before it.
    """
    sources = {"before": before.resolve(), "after": ROOT}
    processes = {name: _start(module, source / "src", measured) for name, source in sources.items()}
    found: dict[str, list[Turn]] = {name: [] for name in sources}
    try:
        for turn in range(turns + 1):
            for name, process in processes.items():
                took = _ask(process)
                print(f"turn {turn}, {name}: {took}", flush=True)
                found[name] += [took] if turn else []
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=before, capture_output=True, text=True, check=True
    )
    return {"commit_before": commit.stdout.strip(), **found}


def take_turns(measure: Callable[[], Turn]) -> None:
    """Measures whenever a line is sent, and prints what was found; for the process of a version."""
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def _start(module: str, source: Path, measured: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(source)}
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-m", module, *measured], cwd=ROOT, env=environment, **pipes)


def _ask(process: subprocess.Popen[str]) -> Turn:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it has ended, which the lines below find
        process.stdin.write("turn\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):  # other lines are what libraries say
            took: Turn = json.loads(line)
            return took
    raise RuntimeError("a version that was to be measured has ended; what it said is above")
