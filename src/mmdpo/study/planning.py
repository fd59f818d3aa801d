"""Which trials a study has: what is tried first to tune its variants, and what is measured with the values so found.

A variant is tuned on seeds of its own, and by one measure: the value of the option whose mean over those seeds is the
best, the least of several that are. So each variant is compared at its best, and no seed that is reported chose it.
A study that confirms another one, on new seeds, takes the values that were chosen there.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmdpo.files import read_json, write_json
from mmdpo.study.results import RESULTS
from mmdpo.study.study_file import Study, StudyError, is_tuned
from mmdpo.study.trial import RESULT, Trial, digest_trial


def plan_trials(study: Study, folder: Path) -> list[Trial]:
    """Returns the trials of a study, seed by seed, so that an interrupted study has complete seeds."""
    trials = []
    for seed in study.seeds:
        start: Path | None = None
        for variant in study.variants:
            place = folder / "trials" / variant.name / f"seed-{seed}"
            trials.append(_plan(study, variant, seed, place, start))
            start = start or place
    return trials


def plan_tries(study: Study, folder: Path) -> list[Trial]:
    """Returns the trials that tune: every value with every tuning seed, of each variant that does not set it itself."""
    assert study.tuning is not None
    tuning, trials = study.tuning, []
    for seed in tuning.seeds:
        start = folder / "tries" / study.variants[0].name / f"seed-{seed}"
        trials.append(_plan(study, study.variants[0], seed, start, None))
        for variant in study.variants[1:]:
            if not is_tuned(variant, tuning):
                continue
            for value in tuning.values:
                place = folder / "tries" / variant.name / f"{value:g}" / f"seed-{seed}"
                tried = dataclasses.replace(variant.having(tuning.key, value), name=f"{variant.name} at {value:g}")
                trials.append(_plan(study, tried, seed, place, start))
    return trials


def choose_values(study: Study, tries: Sequence[Trial]) -> tuple[Study, dict[str, Any]]:
    """Returns the study with every variant at its best value, and how it was found, ready for JSON.

    A value of which a try is missing is not considered; a variant without any keeps the value of its recipe.
    """
    assert study.tuning is not None
    tuning, tried = study.tuning, dict[str, dict[float, float]]()
    higher = True
    for variant in study.variants[1:]:
        for value in tuning.values:
            found = [
                result
                for trial in tries
                if trial.folder.parts[-3:-1] == (variant.name, f"{value:g}")
                if (result := trial.read(RESULT)) and result["metrics"].get(tuning.by) is not None
            ]
            if len(found) == len(tuning.seeds):
                higher = found[0]["measures"][tuning.by]["better"] != "lower"
                mean = statistics.fmean(result["metrics"][tuning.by] for result in found)
                tried.setdefault(variant.name, {})[value] = mean
    chosen = {
        name: min(means, key=lambda value: (-means[value] if higher else means[value], value))
        for name, means in tried.items()
    }
    for variant in study.variants[1:]:
        if variant.tuned_as in chosen and tuning.key not in variant.own_keys:
            chosen[variant.name] = chosen[variant.tuned_as]
    names = [variant.name for variant in study.variants[1:] if is_tuned(variant, tuning)]
    left_out = {name: [value for value in tuning.values if value not in tried.get(name, {})] for name in names}
    tuned = {
        **dataclasses.asdict(tuning),
        "chosen": chosen,
        "tried": {name: {f"{value:g}": mean for value, mean in means.items()} for name, means in tried.items()},
        "left_out": {name: values for name, values in left_out.items() if values},
    }
    return _give_values(study, chosen), tuned


def take_values(study: Study, folder: Path) -> tuple[Study, dict[str, Any]]:
    """Returns the study with every variant at the value that the study of a folder chose, and how it was found there.

    Raises StudyError for a folder of another study, and where it chose nothing for a variant that is tuned here.
    """
    path, tuning = folder / RESULTS, study.tuning
    if tuning is None:
        raise StudyError(f"--tuned_in: the study {study.name!r} tunes nothing: leave it out")
    try:
        found = read_json(path)
        name, tuned = found["study"], found["tuned"]
        chosen, seeds = dict(tuned["chosen"]), list(tuned["seeds"])
    except OSError as error:
        raise StudyError(f"--tuned_in: {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"--tuned_in: {path} does not say which values a study chose (key `tuned`)") from error
    if (name, tuned.get("key")) != (study.name, tuning.key):
        wanted = f"{tuning.key} of {study.name!r}"
        raise StudyError(f"--tuned_in: {path} chose {tuned.get('key')} of the study {name!r}, not {wanted}")
    shared = sorted(set(seeds) & set(study.seeds))
    if shared:
        raise StudyError(f"--tuned_in: the values of {path} were chosen by the seeds {shared}, which are run here")
    of_this = [variant.name for variant in study.variants[1:] if tuning.key not in variant.own_keys]
    without = [name for name in of_this if name not in chosen]
    if without:
        raise StudyError(f"--tuned_in: {path} chose nothing for {', '.join(without)}: leave it out to try values here")
    chosen = {name: chosen[name] for name in of_this}
    command = f"{study.command} --tuned_in {shlex.quote(str(folder))}"
    study = _give_values(dataclasses.replace(study, command=command), chosen)
    return study, {**tuned, "chosen": chosen, "left_out": {}, "in": str(folder)}


def _give_values(study: Study, chosen: Mapping[str, Any]) -> Study:
    assert study.tuning is not None
    key = study.tuning.key
    variants = tuple(v.having(key, chosen[v.name]) if v.name in chosen else v for v in study.variants)
    return dataclasses.replace(study, variants=variants)


def describe_tuned(tuned: dict[str, Any]) -> list[str]:
    """Says which values were chosen, which are the least or the greatest that was tried, and which have no result."""
    chosen, values = tuned["chosen"], tuned["values"]
    by_value: dict[float, list[str]] = {}
    for name, value in chosen.items():
        by_value.setdefault(value, []).append(name)
    said = "; ".join(f"{value:g} {', '.join(names)}" for value, names in sorted(by_value.items()))
    seeds = ", ".join(map(str, tuned["seeds"]))
    where = f" in {tuned['in']}" if "in" in tuned else ""
    notes = [f"{tuned['key']} with the best {tuned['by']} on the seeds {seeds}{where}: {said or 'none'}"]
    at_edge = [name for name, value in chosen.items() if value in (values[0], values[-1])]
    if at_edge:
        notes.append(f"at the edge of what was tried, so that a better value may lie beyond: {', '.join(at_edge)}")
    for name, failed in tuned["left_out"].items():
        kept = "" if name in chosen else f", so that it keeps its recipe's {tuned['key']}"
        notes.append(f"{name}: without a result of every try at {', '.join(f'{value:g}' for value in failed)}{kept}")
    return notes


def adopt_finished(trials: Sequence[Trial], folder: Path) -> int:
    """Takes over trials that are finished in a study beside this one's folder, and returns how many.

    One whose digest is the same would measure the same. Files are linked, not copied, where they can be.
    """
    waiting = [trial for trial in trials if not trial.is_finished()]
    if not waiting:
        return 0
    places = [*folder.parent.glob(f"*/trials/*/seed-*/{RESULT}"), *folder.parent.glob(f"*/tries/**/seed-*/{RESULT}")]
    finished: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(places):
        with suppress(OSError, ValueError, AttributeError):
            content = read_json(path)
            finished[str(content.get("digest"))] = path.parent, content
    adopted = [trial for trial in waiting if trial.digest in finished]
    for trial in adopted:
        source, content = finished[trial.digest]
        shutil.rmtree(trial.aside, ignore_errors=True)
        shutil.copytree(source, trial.aside, copy_function=_link)
        write_json(trial.aside / RESULT, {**content, "variant": trial.variant.name})
    for trial in adopted:  # not before: the place of one may be the source of another, where variants changed names
        shutil.rmtree(trial.folder, ignore_errors=True)
        trial.aside.rename(trial.folder)
    return len(adopted)


def _link(source: str, target: str) -> None:
    """Links a file, or copies it where it cannot be linked: on another disk, or where another user owns it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _plan(study: Study, variant: Any, seed: int, place: Path, start: Path | None) -> Trial:
    digest = digest_trial(variant, seed, study.evaluation, keeps_model=study.keep_models, is_start=start is None)
    return Trial(variant, seed, study.evaluation, place, digest, start, study.keep_models)
