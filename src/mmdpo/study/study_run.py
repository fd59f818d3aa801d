"""`mmdpo study`: runs what is not finished yet, then writes the table.

results.json  every measure of every variant: mean, spread, interval, by seed; paired differences; what is missing
table.md, table.csv, picture.png, picture.svg
study.yaml    the study as it was read
trials/VARIANT/seed-N/   see `mmdpo.study.trial`
tries/VARIANT/VALUE/seed-N/   the same, of the values that were tried where the study says `tune`

Each trial has a process of its own, and one that dies takes no other with it. Processes are forked from a server that
`mmdpo.study.server` prepares: one thread of Python, no CUDA, no tensor. So a trial begins at once, has its memory to
itself, and leaves nothing in that of others.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from mmdpo.files import printable, write_json
from mmdpo.folders import LOCK, hold_folder, make_folder
from mmdpo.report.study import print_study, write_study_files
from mmdpo.study.planning import adopt_finished, choose_values, describe_tuned, plan_trials, plan_tries, take_values
from mmdpo.study.results import RESULTS, collect_results
from mmdpo.study.study_file import Study, StudyError
from mmdpo.study.trial import FAILURE, Trial, run_trial
from mmdpo.world import SMALL

STUDY, LOG = "study.yaml", "log.txt"
WITHOUT_START = "not run, since the start could not be measured with this seed"


class Step(NamedTuple):
    """How far a running trial is; of `total` 0 steps where it is not known."""

    done: int
    total: int
    note: str


Watch = Callable[[Trial, "Step | str | None"], None]
"""Receives of every trial its steps, then its error, or None once it is finished."""


def run_study(
    study: Study, out: str | Path, jobs: int, console: Console, *, tuned_in: Path | None = None
) -> dict[str, Any]:
    """Runs the trials of a study that are not finished, writes results and tables, and returns the results.

    With `tuned_in`, no values are tried: the variants have those that the study of that folder chose. A trial that
    fails is missing in the table; the others go on. Raises StudyError for a folder that holds another study,
    FolderInUseError for one that another process is working in.
    """
    if jobs < 1:
        raise StudyError(f"--jobs is {jobs}; it takes at least one")
    folder, tuned = Path(out), None
    if tuned_in is not None:
        study, tuned = take_values(study, tuned_in)
    recipe = folder / STUDY
    if folder.exists() and any(path.name != LOCK for path in folder.iterdir()) and not recipe.exists():
        raise StudyError(f"{folder} is not empty and holds no study: choose another --out")
    if recipe.exists() and str(yaml.safe_load(recipe.read_text(encoding="utf-8")).get("name")) != study.name:
        raise StudyError(f"{folder} holds another study: choose another --out for {study.name!r}, or remove it")
    make_folder(folder)
    with hold_folder(folder):
        recipe.write_text(yaml.safe_dump(dict(study.content), sort_keys=False, allow_unicode=True), encoding="utf-8")
        prepare_server()
        began = time.perf_counter()
        if study.tuning is not None and tuned is None:
            tries = plan_tries(study, folder)
            _run_from_starts(tries, folder, jobs, console, "tries")
            study, tuned = choose_values(study, tries)
        trials = plan_trials(study, folder)
        _run_from_starts(trials, folder, jobs, console, "trials")
        results = collect_results(study, trials) | {"seconds": round(time.perf_counter() - began, 1), "jobs": jobs}
        if tuned is not None:
            results["tuned"] = tuned
            results["notes"] += describe_tuned(tuned)
        write_json(folder / RESULTS, results)
    paths = (folder / RESULTS, *write_study_files(folder))
    print_study(results, console)
    places = printable(", ".join(map(str, paths)))
    console.print(f"\nResults: {places}", highlight=False, markup=False)
    return results


def _run_from_starts(trials: Sequence[Trial], folder: Path, jobs: int, console: Console, what: str) -> None:
    """Measures the starts, then trains and measures what begins at one that could be measured."""
    adopted = adopt_finished(trials, folder)
    if adopted:
        console.print(f"{adopted} {what} are those of a study in {printable(str(folder.parent))}", highlight=False)
    with _show_progress(trials, console, what) as watch:
        run_trials([trial for trial in trials if trial.start is None], jobs, watch)
        begun = {trial.seed for trial in trials if trial.start is None and trial.is_finished()}
        others = [trial for trial in trials if trial.start is not None]
        for trial in (trial for trial in others if trial.seed not in begun and not trial.is_finished()):
            watch(trial, WITHOUT_START)
            record_failure(trial, WITHOUT_START)
        run_trials([trial for trial in others if trial.seed in begun], jobs, watch)


@contextmanager
def _show_progress(trials: Sequence[Trial], console: Console, what: str) -> Iterator[Watch]:
    """Shows a bar for all of the study and one for each running trial; yields what updates them."""
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:>28}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    done = sum(trial.is_finished() for trial in trials)
    if done:
        console.print(f"{done} of {len(trials)} {what} are finished already", highlight=False)
    with Progress(*columns, console=console) as progress:
        all_trials = progress.add_task(what, total=len(trials), completed=done, note="")

        def watch(trial: Trial, said: Step | str | None) -> None:
            if isinstance(said, Step):
                if trial.label not in bars:
                    bars[trial.label] = progress.add_task(trial.label, total=1, note="")
                steps: dict[str, Any] = {"total": said.total, "completed": said.done} if said.total else {}
                progress.update(bars[trial.label], note=said.note, **steps)
                return
            if trial.label in bars:
                progress.remove_task(bars.pop(trial.label))
            progress.advance(all_trials)
            if said is not None:
                failed = printable(f"{trial.label} failed: {said}")
                console.print(failed, style="red", highlight=False, markup=False)

        yield watch


def run_trials(trials: Sequence[Trial], jobs: int, watch: Watch) -> None:
    """Runs those that are not finished, `jobs` at a time, in their order; one that fails leaves its error instead."""
    waiting = deque(trial for trial in trials if not trial.is_finished())
    running: dict[Connection, tuple[Trial, Any, int]] = {}
    context, visible = _context(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial, (here, there) = waiting.popleft(), context.Pipe(duplex=False)
                slot = min(set(range(jobs)) - {taken for _, _, taken in running.values()})
                gpu = gpus[slot % len(gpus)] if len(gpus) > 1 else None
                process = context.Process(target=_work, args=(trial, there, jobs, gpu), name=trial.label)
                process.start()
                there.close()  # so that the pipe ends when the process does
                running[here] = trial, process, slot
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                trial, process, _ = running[ready]
                try:
                    watch(trial, ready.recv())
                except EOFError:
                    del running[ready]
                    process.join()
                    watch(trial, _settle(trial, process.exitcode))
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for trial, process, _ in running.values():
            process.join()
            shutil.rmtree(trial.aside, ignore_errors=True)


def prepare_server() -> None:
    """Starts the server that processes are forked from, so that it imports while the caller reads the study."""
    if _context().get_start_method() == "forkserver":
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
    context.set_forkserver_preload(["mmdpo.study.server"])
    return context


def _work(trial: Trial, connection: Connection, jobs: int, gpu: str | None) -> None:
    """Runs one trial in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what the server has imported: each training would look through it for garbage, and copy it by that
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    # The small world's model gains nothing from a second thread; others share the cores.
    is_small = trial.variant.options.get("model_name_or_path") == SMALL.name
    torch.set_num_threads(1 if is_small else max(1, torch.get_num_threads() // jobs))
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    shutil.rmtree(trial.aside, ignore_errors=True)
    trial.aside.mkdir(parents=True)
    with (trial.aside / LOG).open("w") as file:  # of all that is printed, by libraries below Python too
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        run_trial(trial, trial.aside, lambda *said: connection.send(Step(*said)))
        _replace(trial)
    except Exception as error:
        traceback.print_exc()
        record_failure(trial, f"{type(error).__name__}: {error}", traceback.format_exc())


def _end_with_parent() -> None:
    """Ends this process when its study's does, however that ended.

    Otherwise the same command, given again, would write in the place where this trial still writes.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _replace(trial: Trial) -> None:
    """Renames the folder that was written aside into its place."""
    if trial.folder.exists():
        shutil.rmtree(trial.folder)
    trial.aside.rename(trial.folder)


def _settle(trial: Trial, exit_code: int | None) -> str | None:
    """Returns the error of a trial whose process has ended, None where it is finished."""
    if trial.is_finished():
        return None
    if exit_code == 0 and (failure := trial.read(FAILURE)):
        return str(failure["error"])
    how = f"was killed by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"ended ({exit_code})"
    hint = ", out of memory perhaps: try fewer --jobs" if exit_code == -9 else ""
    said = ""
    with suppress(OSError):
        said = (trial.aside / LOG).read_text(encoding="utf-8", errors="replace")[-2000:]
    error = f"its process {how}{hint}"
    record_failure(trial, error, said)
    return error
