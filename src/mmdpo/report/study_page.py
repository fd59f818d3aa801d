"""The folder of `mmdpo study` on a page: what it found, every measure of each variant, curves and answers.

A study that is not finished has no results.json, and so no means: its section then shows the trials that are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmdpo.files import clean_text, read_yaml
from mmdpo.report import reading
from mmdpo.report.evaluated import EvaluatedRun, ItemPictures, choose_examples, read_evaluated
from mmdpo.report.figures import draw_panels, overlay_panels
from mmdpo.report.layout import Curves, File, Headline, Section, identify, render, table_files
from mmdpo.report.reading import SCORES, STUDY, TRIALS, Place, ReportError, number_at_end
from mmdpo.report.study import (
    MARK,
    explain_differences,
    explain_spread,
    head_measure,
    is_clear_among_many,
    name_missing,
    read_study_results,
    show_difference,
    show_spread,
    study_csv,
    study_markdown,
    wide_table,
)
from mmdpo.report.trained import TrainedRun, read_trained
from mmdpo.tables import MISSING, NO_BREAK, Table, matrix, show_number
from mmdpo.world import WORLDS

TRIAL = "trial.json"
START, START_LABEL = "start", "start (before training)"
GROUPS = {
    **dict.fromkeys(WORLDS, "Captions of test scenes"),
    "pairs": "Preferences on held-out pairs",
    "time": "Time",
}
"""What measures are about, by the first part of their names."""
DECIDING = (*(f"{world}/f1" for world in WORLDS), "pairs/image_gain", *(f"{world}/chair_i" for world in WORLDS))
"""Measures that variants are ordered by, the first one that a study has; else its first with a better side."""
KEY = (
    *(f"{world}/{name}" for world in WORLDS for name in ("f1", "chair_i", "cover")),
    *("pairs/accuracy_real", "pairs/accuracy_other", "pairs/image_gain"),
)
"""Measures of the table on top."""
MOST_KEY, MOST_SAID = 6, 3
"""Measures of that table, and of the sentence above it."""


def study_section(place: Place, problems: list[str], pictures: ItemPictures) -> Section:
    """Returns the section of a study, finished or not; what cannot be read is added to `problems`."""
    results: dict[str, Any] = {}
    try:
        results = read_study_results(place.path, problems)
        problems += name_missing(results)
    except ReportError as error:
        problems.append(f"the study has no results.json that can be read, so no means: {error}")
    trials, name = _read_trials(place, results), f"study-{identify(place.label)}"
    logs = {variant: [trial.history for trial in of if trial.history] for variant, of in trials.items()}
    panels = overlay_panels({variant: of for variant, of in logs.items() if of})
    curves = Curves(panels, f"{name}-curves")
    title = f"Study: {results.get('study', place.label)}"
    shown: dict[str, Any] = dict(
        results=results,
        curves=curves,
        has_seeds=any(len(of) > 1 for of in trials.values()),
        examples=[choose_examples(world, _answers_of(trials, world), pictures) for world in WORLDS],
    )
    head: Headline | None = None
    if results:
        order = order_variants(results)
        shown |= dict(
            measures=_by_kind(results, order),
            wide=wide_table(results, _label),
            explain_spread=explain_spread(results),
            explain_differences=explain_differences(results),
            about={variant: text for variant, text in results["variants"].items() if text and variant != START},
        )
        files: dict[str, File] = {f"{name}.md": study_markdown(results), f"{name}.csv": study_csv(results)}
        notes = (_explain_key(results), *results["notes"])
        head = Headline(title, name, say_study(results, order), _key_table(results, order), notes=notes)
    else:
        shown["trials"] = _list_trials(trials)
        files = table_files(f"{name}_trials", shown["trials"])
    if panels:
        files[f"{name}_curves.png"] = partial(draw_panels, panels)
    return Section(name, title, render("study.html", **shown), files, curves, head)


def order_variants(results: Mapping[str, Any]) -> list[str]:
    """Returns the variants, the best one by the deciding measure first, after the start; those without it last."""
    deciding = _deciding(results)
    if deciding is None:
        return list(results["variants"])
    sign = 1 if results["measures"][deciding]["better"] == "lower" else -1

    def place(variant: str) -> tuple[bool, bool, float]:
        mean = results["values"].get(variant, {}).get(deciding, {}).get("mean")
        return variant != START, mean is None, 0.0 if mean is None else sign * mean

    return sorted(results["variants"], key=place)


def _deciding(results: Mapping[str, Any]) -> str | None:
    """Returns the measure that variants are ordered by."""
    sided = [name for name, of in results["measures"].items() if of["better"] in ("higher", "lower")]
    return next((name for name in (*DECIDING, *sided) if name in sided), None)


def say_study(results: Mapping[str, Any], order: Sequence[str]) -> str:
    """Returns in a sentence which variant is best by each of the main measures that have a better side."""
    trained = [name for name in order if name != START]
    sided = [name for name, of in results["measures"].items() if of["better"] in ("higher", "lower")]
    names = [name for name in KEY if name in sided] or sided
    found = []
    for name in names[:MOST_SAID]:
        measure = results["measures"][name]
        means = {of: results["values"].get(of, {}).get(name, {}).get("mean") for of in trained}
        known = {of: mean for of, mean in means.items() if mean is not None}
        if known:
            best = (min if measure["better"] == "lower" else max)(known, key=known.__getitem__)
            unit = f"{NO_BREAK}{measure['unit']}" if measure["unit"] else ""
            shown = show_number(known[best], measure["digits"]) + unit
            found.append(f"{measure['label']} {shown} by {best}{_mark(results, best, name)}")
    if not found:
        return f"{len(trained)} variants; no measure says which is best."
    seeds = len(results["seeds"])
    return f"Best of {len(trained)} variants, {seeds} seed{'' if seeds == 1 else 's'}: {', '.join(found)}."


def _key_table(results: Mapping[str, Any], order: Sequence[str]) -> Table:
    """Returns a row for each variant with the measures that a study is about, and whether they clearly differ."""
    names = [name for name in KEY if name in results["measures"]] or list(results["measures"])
    rows = tuple(
        (_label(variant), *(_show_key(results, variant, name) for name in names[:MOST_KEY])) for variant in order
    )
    heads = (head_measure(results["measures"][name]) for name in names[:MOST_KEY])
    return Table(("variant", *heads), rows, f"{results['study']}: main measures")


def _show_key(results: Mapping[str, Any], variant: str, name: str) -> str:
    digits = results["measures"][name]["digits"]
    shown = show_spread(results["values"].get(variant, {}).get(name, {}), digits)
    return f"{shown}{_mark(results, variant, name)}"


def _mark(results: Mapping[str, Any], variant: str, name: str) -> str:
    """Returns the mark of a difference to the baseline that stays clear among many, with a blank before it."""
    is_clear = is_clear_among_many(results["differences"].get(variant, {}).get(name, {}))
    return f"{NO_BREAK}{MARK}" if is_clear else ""


def _explain_key(results: Mapping[str, Any]) -> str:
    deciding = _deciding(results)
    order = f" In the order of {results['measures'][deciding]['label']}." if deciding is not None else ""
    has_marks = any(value.get("holm") is not None for of in results["differences"].values() for value in of.values())
    mark = f" {MARK} differs clearly from {results['baseline']}, among many comparisons." if has_marks else ""
    return f"{explain_spread(results)}{order}{mark} ↑ higher is better, ↓ lower."


def _by_kind(results: Mapping[str, Any], order: Sequence[str]) -> dict[str, Table]:
    """Returns a table for each kind of measure, by its name, so that each is narrow enough to be seen whole.

    Each cell has a value and, below it, the difference to the baseline.
    """
    kinds: dict[str, list[str]] = {}
    for name in results["measures"]:
        kind = name.partition("/")[0]
        kinds.setdefault(GROUPS.get(kind, kind), []).append(name)
    tables = {}
    for kind, names in kinds.items():
        heads = (head_measure(results["measures"][name]) for name in names)
        rows = ((_label(variant), *(_show_both(results, variant, name) for name in names)) for variant in order)
        tables[kind] = Table(("variant", *heads), tuple(rows), kind)
    return tables


def _show_both(results: Mapping[str, Any], variant: str, name: str) -> str:
    digits = results["measures"][name]["digits"]
    shown = show_spread(results["values"].get(variant, {}).get(name, {}), digits)
    difference = show_difference(results["differences"].get(variant, {}).get(name, {}), digits)
    is_compared = variant != START and difference != MISSING  # the start was not trained
    return f"{shown}\n{difference}" if is_compared else shown


def _label(variant: str) -> str:
    return START_LABEL if variant == START else variant


def _read_trials(place: Place, results: Mapping[str, Any]) -> dict[str, list[TrainedRun]]:
    """Returns the finished trials by variant, one for each seed, in the order of the results or of the study's file."""
    folders = sorted(place.path.glob(f"{TRIALS}/*/seed-*"), key=number_at_end)
    begun = {clean_text(folder.parent.name): None for folder in folders}
    planned = list(results.get("variants", ()))
    if not planned:
        try:
            listed = [START, *(str(variant["name"]) for variant in read_yaml(place.path / STUDY)["variants"])]
            planned = [name for name in listed if name in begun]
        except (OSError, ValueError, KeyError, TypeError):
            planned = []
    trials: dict[str, list[TrainedRun]] = {name: [] for name in (*planned, *begun)}
    for folder in folders:
        if (folder / TRIAL).is_file():
            name = clean_text(folder.parent.name)
            trial = read_trained(Place(folder, name), [], needs_model=False)
            trials[name].append(replace(trial, label=f"{name}, seed {number_at_end(folder)}"))
    return trials


def _list_trials(trials: Mapping[str, Sequence[TrainedRun]]) -> Table:
    """Returns what the finished trials of a study without a result have measured."""
    rows, records = dict[str, dict[str, str]](), []
    for trial in (trial for of in trials.values() for trial in of):
        result = reading.read_object(trial.folder / TRIAL, [], costs="")
        metrics = reading.fit(result.get("metrics"), {str: float}, trial.label, [])
        rows[trial.label] = {name: show_number(value) for name, value in metrics.items()}
        records.append({"trial": trial.label, **metrics})
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return matrix("Trials that are finished", "trial", rows, names, records)


def _answers_of(trials: Mapping[str, Sequence[TrainedRun]], world: str) -> list[EvaluatedRun]:
    """Returns what each variant said of a world's scenes with the first seed that most of them have."""
    found: dict[int, list[Place]] = {}
    for variant, of in trials.items():
        for trial in of:
            if (trial.folder / world / SCORES).is_file():
                found.setdefault(number_at_end(trial.folder), []).append(Place(trial.folder / world, variant))
    places = max((found[seed] for seed in sorted(found)), key=len, default=[])
    return [read_evaluated(place, []) for place in places]
