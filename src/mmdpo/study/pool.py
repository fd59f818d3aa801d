"""Trials in processes of their own, several at a time; one that dies takes no other with it.

Processes are forked from a server that has imported the libraries once and run nothing else: one thread of Python, no
CUDA, no tensor. So a trial begins at once, has its memory to itself, and leaves nothing in that of others.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mmdpo.files import write_json
from mmdpo.study.trial import FAILURE, Trial, run_trial

LOG = "log.txt"
_LOG_TAIL = 2000
"""Characters of a dead process's log that are kept with its failure."""


@dataclass(frozen=True)
class Progress:
    """How far a running trial is."""

    done: int
    total: int
    """0 where it is not known."""
    note: str


Watch = Callable[[Trial, "Progress | str | None"], None]
"""Receives of every trial its progress, then its error, or None once it is finished."""


@dataclass(frozen=True)
class _Running:
    trial: Trial
    process: Any
    slot: int


def run_trials(trials: Sequence[Trial], jobs: int, watch: Watch) -> None:
    """Runs trials, `jobs` at a time, in their order. A trial that fails leaves its error in its folder."""
    waiting, running = deque(trials), dict[Connection, _Running]()
    context, gpus = _context(), _name_gpus()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {entry.slot for entry in running.values()})
                connection, entry = _start(context, waiting.popleft(), jobs, slot, gpus)
                running[connection] = entry
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                entry = running[ready]
                try:
                    watch(entry.trial, ready.recv())
                except EOFError:
                    del running[ready]
                    entry.process.join()
                    watch(entry.trial, _settle(entry.trial, entry.process.exitcode))
    finally:
        for entry in running.values():
            entry.process.terminate()
        for entry in running.values():
            entry.process.join()
            shutil.rmtree(entry.trial.aside, ignore_errors=True)


def prepare_server() -> None:
    """Starts the server that processes are forked from, so that it imports while the caller reads the study."""
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def record_failure(trial: Trial, error: str, details: str = "") -> None:
    """Puts an error where the trial's result would be; what the process printed stays beside it."""
    trial.aside.mkdir(parents=True, exist_ok=True)
    for entry in trial.aside.iterdir():
        if entry.name != LOG:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    failure = dict(variant=trial.variant.name, seed=trial.seed, digest=trial.digest, error=error, details=details)
    write_json(trial.aside / FAILURE, failure)
    _replace(trial)


def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["mmdpo.study.pool"])
    return context


def _start(context: Any, trial: Trial, jobs: int, slot: int, gpus: Sequence[str]) -> tuple[Connection, _Running]:
    here, there = context.Pipe(duplex=False)
    # Of what torch would take here, by OMP_NUM_THREADS or the cores that this process may use.
    threads = 1 if trial.is_of_small_world else max(1, torch.get_num_threads() // jobs)
    gpu = gpus[slot % len(gpus)] if len(gpus) > 1 else None
    process = context.Process(target=_work, args=(trial, there, threads, gpu), name=trial.label)
    process.start()
    there.close()  # so that the pipe ends when the process does
    return here, _Running(trial, process, slot)


def _end_with_parent() -> None:
    """Ends this process when its study's does, however that ended.

    Otherwise the same command, given again, would write in the place where this trial still writes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(trial: Trial, connection: Connection, threads: int, gpu: str | None) -> None:
    """Runs one trial in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    shutil.rmtree(trial.aside, ignore_errors=True)
    trial.aside.mkdir(parents=True)
    _print_into(trial.aside / LOG)
    try:
        run_trial(trial, trial.aside, lambda *said: connection.send(Progress(*said)))
        _replace(trial)
    except Exception as error:
        traceback.print_exc()
        record_failure(trial, f"{type(error).__name__}: {error}", traceback.format_exc())


def _print_into(path: Path) -> None:
    """Sends what this process prints, libraries below Python included, into a file."""
    with path.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _replace(trial: Trial) -> None:
    """Renames the folder that was written aside into its place."""
    if trial.folder.exists():
        shutil.rmtree(trial.folder)
    trial.aside.rename(trial.folder)


def _settle(trial: Trial, exit_code: int | None) -> str | None:
    """Returns the error of a trial whose process has ended, None where it is finished."""
    if trial.is_finished():
        return None
    if exit_code == 0 and trial.read(FAILURE):
        return str(trial.read(FAILURE)["error"])
    how = f"was killed by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"ended ({exit_code})"
    hint = ", out of memory perhaps: try fewer --jobs" if exit_code == -9 else ""
    said = ""
    with suppress(OSError):
        said = (trial.aside / LOG).read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
    error = f"its process {how}{hint}"
    record_failure(trial, error, said)
    return error


def _name_gpus() -> list[str]:
    """Returns the GPUs that processes may be given, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
