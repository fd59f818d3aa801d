"""`mmdpo study`: runs what is not finished yet, then writes the table.

results.json  every measure of every variant: mean, spread, interval, by seed; paired differences; what is missing
table.md, table.csv, picture.png, picture.svg
study.yaml    the study as it was read
trials/VARIANT/seed-N/   see `mmdpo.study.trial`
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mmdpo.files import LOCK, hold_folder, make_folder, printable, write_json
from mmdpo.report.study import draw_study, print_study, write_tables
from mmdpo.study import pool
from mmdpo.study.results import collect_results
from mmdpo.study.study_file import Study, StudyError
from mmdpo.study.trial import Trial, digest_trial

RESULTS, STUDY = "results.json", "study.yaml"
WITHOUT_START = "not run, since the start could not be measured with this seed"


def run_study(study: Study, out: str | Path, jobs: int, console: Console) -> dict[str, Any]:
    """Runs the trials of a study that are not finished, writes results and tables, and returns the results.

    A trial that fails is missing in the table; the others go on. Raises StudyError for a folder that holds another
    study, FolderInUseError for one that another process is working in.
    """
    if jobs < 1:
        raise StudyError(f"--jobs is {jobs}; it takes at least one")
    folder = Path(out)
    with _claim(folder, study):
        pool.prepare_server()
        began = time.perf_counter()
        trials = plan_trials(study, folder)
        starts, others = ([t for t in trials if (t.start is None) is is_start] for is_start in (True, False))
        with _show_progress(trials, console) as watch:
            pool.run_trials(_unfinished(starts), jobs, watch)
            begun = {trial.seed for trial in starts if trial.is_finished()}
            for trial in others:
                if trial.seed not in begun:
                    watch(trial, WITHOUT_START)
                    pool.record_failure(trial, WITHOUT_START)
            pool.run_trials(_unfinished([t for t in others if t.seed in begun]), jobs, watch)
        results = collect_results(study, trials) | {"seconds": round(time.perf_counter() - began, 1), "jobs": jobs}
        write_json(folder / RESULTS, results)
    paths = (*write_tables(folder), draw_study(folder))
    print_study(results, console)
    places = printable(", ".join(str(path) for path in (folder / RESULTS, *paths)))
    console.print(f"\nResults: {places}", highlight=False, markup=False)
    return results


def plan_trials(study: Study, folder: Path) -> list[Trial]:
    """Returns the trials of a study, seed by seed, so that an interrupted study has complete seeds."""
    trials = []
    for seed in study.seeds:
        start: Path | None = None
        for variant in study.variants:
            digest = digest_trial(variant, seed, study.evaluation, keeps_model=study.keep_models)
            place = folder / "trials" / variant.name / f"seed-{seed}"
            trials.append(Trial(variant, seed, study.evaluation, place, digest, start, study.keep_models))
            start = start or place
    return trials


def _unfinished(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if not trial.is_finished()]


@contextmanager
def _claim(folder: Path, study: Study) -> Iterator[None]:
    """Holds the folder for this process; the system releases it however the process ends."""
    recipe = folder / STUDY
    if folder.exists() and any(path.name != LOCK for path in folder.iterdir()) and not recipe.exists():
        raise StudyError(f"{folder} is not empty and holds no study: choose another --out")
    if recipe.exists() and yaml.safe_load(recipe.read_text(encoding="utf-8")).get("name") != study.name:
        raise StudyError(f"{folder} holds another study: choose another --out for {study.name!r}, or remove it")
    make_folder(folder)
    with hold_folder(folder):
        recipe.write_text(yaml.safe_dump(dict(study.content), sort_keys=False, allow_unicode=True), encoding="utf-8")
        yield


@contextmanager
def _show_progress(trials: Sequence[Trial], console: Console) -> Iterator[pool.Watch]:
    """Shows a bar for all of the study and one for each running trial; yields what updates them."""
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:>28}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    done = len(trials) - len(_unfinished(trials))
    if done:
        console.print(f"{done} of {len(trials)} trials are finished already", highlight=False)
    with Progress(*columns, console=console) as progress:
        all_trials = progress.add_task("trials", total=len(trials), completed=done, note="")

        def watch(trial: Trial, said: pool.Progress | str | None) -> None:
            if isinstance(said, pool.Progress):
                if trial.label not in bars:
                    bars[trial.label] = progress.add_task(trial.label, total=1, note="")
                if said.total:
                    progress.update(bars[trial.label], total=said.total, completed=said.done)
                progress.update(bars[trial.label], note=said.note)
                return
            if trial.label in bars:
                progress.remove_task(bars.pop(trial.label))
            progress.advance(all_trials)
            if said is not None:
                failed = printable(f"{trial.label} failed: {said}")
                console.print(failed, style="red", highlight=False, markup=False)

        yield watch
