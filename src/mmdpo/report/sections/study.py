"""A study on a page: means over seeds, differences paired by seed, curves by variant, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mmdpo.report.curves import overlay_panels
from mmdpo.report.evaluated import EvaluatedRun, read_evaluated
from mmdpo.report.figures import draw_panels
from mmdpo.report.folders import SCORES, STUDY, TRIALS, Place
from mmdpo.report.grid import NO_BREAK, Grid, matrix, show_interval, show_number
from mmdpo.report.layout import (
    Section,
    bullets,
    curves_html,
    curves_rules,
    definitions,
    identify,
    paragraph,
    table_html,
)
from mmdpo.report.runs import RESULTS, RunFolderError
from mmdpo.report.sections.evaluation import Pictures, examples_html
from mmdpo.report.study import read_study_results, study_csv, study_markdown
from mmdpo.report.trained import TrainedRun, read_object, read_trained
from mmdpo.world.worlds import WORLDS

RESULT = "trial.json"
ARROWS = {"higher": " ↑", "lower": " ↓"}
CURVES_NOTE = (
    "Means over the seeds of a variant, in a band from the least to the greatest. Rewards of chosen, rejected and "
    "corrupted have one scale."
)


@dataclass(frozen=True)
class StudyFolder:
    """What a study left behind."""

    place: Place
    results: Mapping[str, Any]
    """The content of results.json; empty where it could not be read."""
    trials: Mapping[str, Sequence[TrainedRun]]
    """By variant, one for each seed."""
    missing: tuple[str, ...]


def read_study(place: Place) -> StudyFolder:
    """Reads a study, finished or not. Raises nothing: what cannot be read stands in `missing`."""
    missing: list[str] = []
    try:
        results = read_study_results(place.path)
    except RunFolderError as error:
        missing.append(f"{place.label}: the study has no {RESULTS} that can be read, so no means: {error}")
        results = {}
    missing += [f"{place.label}: {e['variant']}, seed {e['seed']}: {e['error']}" for e in results.get("missing", ())]
    folders = sorted(place.path.glob(f"{TRIALS}/*/seed-*"), key=_seed_of)
    found = {folder.parent.name: None for folder in folders}
    planned = results.get("variants") or [name for name in _planned_variants(place) if name in found]
    names = dict.fromkeys((*planned, *found))
    trials = {
        name: [
            replace(read_trained(Place(folder, name), needs_model=False), label=f"{name}, seed {_seed_of(folder)}")
            for folder in folders
            if folder.parent.name == name and (folder / RESULT).is_file()
        ]
        for name in names
    }
    return StudyFolder(place, results, trials, tuple(missing))


def _planned_variants(place: Place) -> list[str]:
    """Returns the variants in the order of the study's file, the start first; none where it cannot be read."""
    try:
        content = yaml.safe_load((place.path / STUDY).read_text(encoding="utf-8"))
        return ["start", *(str(variant["name"]) for variant in content["variants"])]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []


def study_section(study: StudyFolder, pictures: Pictures) -> Section:
    """Returns the section of a study."""
    results, name = study.results, f"study-{identify(study.place.label)}"
    tables: dict[str, Grid] = {}
    html = [paragraph(results.get("about", "")), paragraph(results.get("command", ""), soft=True)]
    html.append(bullets(results.get("notes", ())))
    if results:
        html += _tables_html(results, tables, name)
    else:
        tables[f"{name}_trials"] = _list_trials(study)
        html.append(table_html(tables[f"{name}_trials"]))
    panels = overlay_panels(
        {
            variant: [t.history for t in of if t.history]
            for variant, of in study.trials.items()
            if any(t.history for t in of)
        }
    )
    html.append(f"<h3>Training</h3>\n{paragraph(CURVES_NOTE if panels else 'No trial left a log.')}")
    html.append(curves_html(panels, f"{name}-curves"))
    for world in WORLDS:
        shown = _world_answers(study, world)
        if shown:
            html.append(examples_html(world, shown, pictures))
    texts = {f"{name}.md": study_markdown(results), f"{name}.csv": study_csv(results)} if results else {}
    return Section(
        name,
        f"Study: {results.get('study', study.place.label)}",
        "\n".join(part for part in html if part),
        tables=tables,
        texts=texts,
        figures={f"{name}_curves": partial(draw_panels, panels)} if panels else {},
        rules=curves_rules(panels, f"{name}-curves"),
    )


def _tables_html(results: Mapping[str, Any], tables: dict[str, Grid], name: str) -> list[str]:
    measures = results["measures"]
    heads = {key: f"{m['label']} ({m['unit']}){ARROWS.get(m['better'], '')}" for key, m in measures.items()}
    means, differences = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for variant, values in results["values"].items():
        means[variant] = {heads[k]: _spread(v, measures[k]["digits"]) for k, v in values.items()}
    for variant, values in results["differences"].items():
        differences[variant] = {heads[k]: _interval(v, measures[k]["digits"]) for k, v in values.items()}
    records = [{"variant": v, "measure": k, **x} for v, of in results["values"].items() for k, x in of.items()]
    tables[f"{name}_means"] = matrix("Means over seeds", "variant", means, list(heads.values()), records)
    records = [{"variant": v, "measure": k, **x} for v, of in results["differences"].items() for k, x in of.items()]
    title = f"Differences to {results['baseline']}"
    tables[f"{name}_differences"] = matrix(title, "variant", differences, list(heads.values()), records)
    about = {variant: text for variant, text in results["variants"].items() if text}
    versions = ", ".join(f"{package} {number}" for package, number in results.get("versions", {}).items())
    seeds, statistics = ", ".join(map(str, results["seeds"])), results.get("statistics", "")
    return [
        paragraph(f"Mean ± standard deviation over the seeds {seeds}. ↑ higher is better, ↓ lower."),
        table_html(tables[f"{name}_means"]),
        f"<h3>Differences</h3>\n{paragraph(f'{title}: {statistics}.')}",
        table_html(tables[f"{name}_differences"]),
        definitions(about) if about else "",
        paragraph(versions, soft=True),
    ]


def _spread(value: Mapping[str, Any], digits: int) -> str:
    spread = show_number(value.get("std"), digits)
    return show_number(value.get("mean"), digits) + (
        "" if value.get("std") is None else f"{NO_BREAK}±{NO_BREAK}{spread}"
    )


def _interval(value: Mapping[str, Any], digits: int) -> str:
    return show_interval(value.get("mean"), value.get("low"), value.get("high"), digits, signed=True)


def _list_trials(study: StudyFolder) -> Grid:
    """Returns what the finished trials of a study without a result have measured."""
    rows, records = dict[str, dict[str, str]](), []
    for trial in (trial for of in study.trials.values() for trial in of):
        metrics = read_object(trial.folder / RESULT, trial.label, [], what="").get("metrics") or {}
        rows[trial.label] = {name: show_number(value) for name, value in metrics.items()}
        records.append({"trial": trial.label, **metrics})
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return matrix("Trials that are finished", "trial", rows, names, records)


def _world_answers(study: StudyFolder, world: str) -> list[EvaluatedRun]:
    """Returns what each variant said of a world's scenes with the first seed that most of them have."""
    found: dict[int, list[EvaluatedRun]] = {}
    for variant, trials in study.trials.items():
        for trial in trials:
            folder = trial.folder / world
            if (folder / SCORES).is_file():
                run = replace(read_evaluated(Place(folder, variant)), label=variant)
                found.setdefault(_seed_of(trial.folder), []).append(run)
                break
    return max(found.values(), key=len, default=[])


def _seed_of(folder: Path) -> int:
    digits = folder.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1
