"""The folder of `mmdpo study`, finished or not, on a page: means, differences, curves by variant and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmdpo.files import clean_text, read_yaml
from mmdpo.report.curves import draw_panels, overlay_panels
from mmdpo.report.evaluated import EvaluatedRun, ItemPictures, choose_examples, read_evaluated
from mmdpo.report.folders import SCORES, STUDY, TRIALS, Place, number_at_end
from mmdpo.report.layout import Curves, Section, identify, render
from mmdpo.report.shape import ReportError, fit, read_object
from mmdpo.report.study import (
    explain_differences,
    explain_spread,
    read_study_results,
    show_difference,
    show_spread,
    study_csv,
    study_markdown,
    study_table,
)
from mmdpo.report.trained import TrainedRun, read_trained
from mmdpo.tables import Table, matrix, show_number
from mmdpo.world import WORLDS

TRIAL = "trial.json"
START, START_LABEL = "start", "start (before training)"
GROUPS = {"pairs": "Preferences on held-out pairs", "time": "Time"}
"""What measures are about, by the first part of their names."""


def study_section(place: Place, missing: list[str], pictures: ItemPictures) -> Section:
    """Returns the section of a study, finished or not; what cannot be read is added to `missing`."""
    problems: list[str] = []
    try:
        results = read_study_results(place.path, problems)
    except ReportError as error:
        problems.append(f"the study has no results.json that can be read, so no means: {error}")
        results = {}
    problems += [f"{e['variant']}, seed {e['seed']}: {e['error']}" for e in results.get("missing", ())]
    missing += [f"{place.label}: {problem}" for problem in problems]
    trials, name = _read_trials(place, results), f"study-{identify(place.label)}"
    if results:
        title = f"Differences to {results['baseline']}"
        tables = {
            f"{name}_means": study_table(results, "values", show_spread, title="Values", label=_label),
            f"{name}_differences": study_table(results, "differences", show_difference, title=title, label=_label),
        }
    else:
        tables = {f"{name}_trials": _list_trials(trials)}
    logs = {variant: [trial.history for trial in of if trial.history] for variant, of in trials.items()}
    panels = overlay_panels({variant: of for variant, of in logs.items() if of})
    curves = Curves(panels, f"{name}-curves")
    html = render(
        "study.html",
        results=results,
        values=_by_kind(results, "values", show_spread),
        differences=_by_kind(results, "differences", show_difference),
        explain_spread=explain_spread(results) if results else "",
        explain_differences=explain_differences(results) if results else "",
        about={variant: text for variant, text in results.get("variants", {}).items() if text and variant != START},
        trials=tables.get(f"{name}_trials"),
        curves=curves,
        has_seeds=any(len(of) > 1 for of in trials.values()),
        examples=[choose_examples(world, _answers_of(trials, world), pictures) for world in WORLDS],
    )
    return Section(
        name,
        f"Study: {results.get('study', place.label)}",
        html,
        tables=tables,
        texts={f"{name}.md": study_markdown(results), f"{name}.csv": study_csv(results)} if results else {},
        figures={f"{name}_curves": partial(draw_panels, panels)} if panels else {},
        curves=curves,
    )


def _read_trials(place: Place, results: Mapping[str, Any]) -> dict[str, list[TrainedRun]]:
    """Returns the finished trials by variant, one for each seed."""
    folders = sorted(place.path.glob(f"{TRIALS}/*/seed-*"), key=number_at_end)
    begun = {clean_text(folder.parent.name): None for folder in folders}
    planned = results.get("variants") or [name for name in _planned_variants(place) if name in begun]
    trials: dict[str, list[TrainedRun]] = {name: [] for name in (*planned, *begun)}
    for folder in folders:
        if (folder / TRIAL).is_file():
            name = clean_text(folder.parent.name)
            trial = read_trained(Place(folder, name), needs_model=False)
            trials[name].append(replace(trial, label=f"{name}, seed {number_at_end(folder)}"))
    return trials


def _planned_variants(place: Place) -> list[str]:
    """Returns the variants in the order of the study's file, the start first; none where it cannot be read."""
    try:
        content = read_yaml(place.path / STUDY)
        return [START, *(str(variant["name"]) for variant in content["variants"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _by_kind(results: Mapping[str, Any], part: str, show: Any) -> dict[str, Table]:
    """Returns a table for each kind of measure, by its name, so that each is narrow enough to be seen whole."""
    names: dict[str, list[str]] = {}
    for name in results.get("measures", ()):
        kind = name.partition("/")[0]
        names.setdefault("Captions of test scenes" if kind in WORLDS else GROUPS.get(kind, kind), []).append(name)
    return {
        kind: study_table(results, part, show, title=f"{part.capitalize()}: {kind}", names=of, label=_label)
        for kind, of in names.items()
    }


def _label(variant: str) -> str:
    return START_LABEL if variant == START else variant


def _list_trials(trials: Mapping[str, Sequence[TrainedRun]]) -> Table:
    """Returns what the finished trials of a study without a result have measured."""
    rows, records = dict[str, dict[str, str]](), []
    for trial in (trial for of in trials.values() for trial in of):
        result = read_object(trial.folder / TRIAL, [], costs="")
        metrics = fit(result.get("metrics") or {}, {str: (float, None)}, trial.label, [])
        rows[trial.label] = {name: show_number(value) for name, value in metrics.items()}
        records.append({"trial": trial.label, **metrics})
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return matrix("Trials that are finished", "trial", rows, names, records)


def _answers_of(trials: Mapping[str, Sequence[TrainedRun]], world: str) -> list[EvaluatedRun]:
    """Returns what each variant said of a world's scenes with the first seed that most of them have."""
    found: dict[int, list[EvaluatedRun]] = {}
    for variant, of in trials.items():
        for trial in of:
            folder = trial.folder / world
            if (folder / SCORES).is_file():
                run = replace(read_evaluated(Place(folder, variant)), label=variant)
                found.setdefault(number_at_end(trial.folder), []).append(run)
                break
    return max(found.values(), key=len, default=[])
