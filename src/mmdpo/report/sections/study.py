"""A study on a page: means over seeds, differences paired by seed, curves by variant, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

from mmdpo.files import clean_text, read_yaml
from mmdpo.report.curves import overlay_panels
from mmdpo.report.evaluated import EvaluatedRun, read_evaluated
from mmdpo.report.figures import draw_panels
from mmdpo.report.folders import SCORES, STUDY, TRIALS, Place, number_at_end
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
from mmdpo.report.shape import fit
from mmdpo.report.study import (
    MARK,
    explain_differences,
    explain_spread,
    is_marked,
    read_study_results,
    study_csv,
    study_markdown,
)
from mmdpo.report.trained import TrainedRun, read_object, read_trained
from mmdpo.tables import NO_BREAK, Table, matrix, show_interval, show_number
from mmdpo.world.worlds import WORLDS

RESULT = "trial.json"
ARROWS = {"higher": " ↑", "lower": " ↓"}
CURVES_NOTE = (
    "Means over the seeds of a variant, in a band from the least to the greatest. Rewards of chosen, rejected and "
    "corrupted have one scale."
)
ONE_SEED_CURVES_NOTE = "As the trainers logged it. Rewards of chosen, rejected and corrupted have one scale."
START = "start"
START_LABEL = "start (before training)"
GROUPS = {"pairs": "Preferences on held-out pairs", "time": "Time"}
"""What measures are about, by the first part of their names."""


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
        found: list[str] = []
        results = read_study_results(place.path, found)
        missing += [f"{place.label}: {line}" for line in found]
    except RunFolderError as error:
        missing.append(f"{place.label}: the study has no {RESULTS} that can be read, so no means: {error}")
        results = {}
    missing += [f"{place.label}: {e['variant']}, seed {e['seed']}: {e['error']}" for e in results.get("missing", ())]
    folders = sorted(place.path.glob(f"{TRIALS}/*/seed-*"), key=number_at_end)
    begun = {clean_text(folder.parent.name): None for folder in folders}
    planned = results.get("variants") or [name for name in _planned_variants(place) if name in begun]
    names = dict.fromkeys((*planned, *begun))
    trials = {
        name: [
            replace(read_trained(Place(folder, name), needs_model=False), label=f"{name}, seed {number_at_end(folder)}")
            for folder in folders
            if clean_text(folder.parent.name) == name and (folder / RESULT).is_file()
        ]
        for name in names
    }
    return StudyFolder(place, results, trials, tuple(missing))


def _planned_variants(place: Place) -> list[str]:
    """Returns the variants in the order of the study's file, the start first; none where it cannot be read."""
    try:
        content = read_yaml(place.path / STUDY)
        return [START, *(str(variant["name"]) for variant in content["variants"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def study_section(study: StudyFolder, pictures: Pictures) -> Section:
    """Returns the section of a study."""
    results, name = study.results, f"study-{identify(study.place.label)}"
    tables: dict[str, Table] = {}
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
    note = CURVES_NOTE if any(len(of) > 1 for of in study.trials.values()) else ONE_SEED_CURVES_NOTE
    html.append(f"<h3>Training</h3>\n{paragraph(note if panels else 'No trial left a log.')}")
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


def _tables_html(results: Mapping[str, Any], tables: dict[str, Table], name: str) -> list[str]:
    measures = results["measures"]
    heads = {key: f"{m['label']} ({m['unit']}){ARROWS.get(m['better'], '')}" for key, m in measures.items()}
    means, differences = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for variant, values in results["values"].items():
        means[_label(variant)] = {heads[k]: _spread(v, measures[k]["digits"]) for k, v in values.items()}
    for variant, values in results["differences"].items():
        differences[_label(variant)] = {heads[k]: _interval(v, measures[k]["digits"]) for k, v in values.items()}
    records = [{"variant": v, "measure": k, **x} for v, of in results["values"].items() for k, x in of.items()]
    tables[f"{name}_means"] = matrix("Values", "variant", means, list(heads.values()), records)
    records = [{"variant": v, "measure": k, **x} for v, of in results["differences"].items() for k, x in of.items()]
    title = f"Differences to {results['baseline']}"
    tables[f"{name}_differences"] = matrix(title, "variant", differences, list(heads.values()), records)
    about = {variant: text for variant, text in results["variants"].items() if text and variant != START}
    versions = ", ".join(f"{package} {number}" for package, number in results.get("versions", {}).items())
    return [
        paragraph(f"{explain_spread(results)} ↑ higher is better, ↓ lower."),
        *_parts_html("Values", means, heads),
        f"<h3>{escape(title)}</h3>\n{paragraph(explain_differences(results))}",
        *_parts_html(title, differences, heads),
        definitions(about) if about else "",
        paragraph(versions, soft=True),
    ]


def _parts_html(title: str, rows: Mapping[str, Mapping[str, str]], heads: Mapping[str, str]) -> Iterator[str]:
    """Yields a table for each kind of measure, so that each is narrow enough to be seen whole."""
    parts: dict[str, list[str]] = {}
    for key, head in heads.items():
        kind = key.partition("/")[0]
        parts.setdefault("Captions of test scenes" if kind in WORLDS else GROUPS.get(kind, kind), []).append(head)
    for part, columns in parts.items():
        yield f"<h4>{escape(part)}</h4>\n{table_html(matrix(f'{title}: {part}', 'variant', rows, columns, ()))}"


def _label(variant: str) -> str:
    return START_LABEL if variant == START else variant


def _spread(value: Mapping[str, Any], digits: int) -> str:
    spread = show_number(value.get("std"), digits)
    return show_number(value.get("mean"), digits) + (
        "" if value.get("std") is None else f"{NO_BREAK}±{NO_BREAK}{spread}"
    )


def _interval(value: Mapping[str, Any], digits: int) -> str:
    shown = show_interval(value.get("mean"), value.get("low"), value.get("high"), digits, signed=True)
    return shown + (f"{NO_BREAK}{MARK}" if is_marked(value) else "")


def _list_trials(study: StudyFolder) -> Table:
    """Returns what the finished trials of a study without a result have measured."""
    rows, records = dict[str, dict[str, str]](), []
    for trial in (trial for of in study.trials.values() for trial in of):
        result = read_object(trial.folder / RESULT, trial.label, [], what="")
        metrics = fit(result.get("metrics") or {}, {str: (float, None)}, trial.label, [])
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
                found.setdefault(number_at_end(trial.folder), []).append(run)
                break
    return max(found.values(), key=len, default=[])
