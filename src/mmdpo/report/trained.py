"""Runs of `mmdpo train`, whole or died half way: read, and shown as curves, sample answers and settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mmdpo.files import find_inside, read_json, read_text, read_yaml
from mmdpo.report.figures import curve_panels, draw_panels, overlay_panels
from mmdpo.report.labels import label_logged
from mmdpo.report.layout import Curves, Headline, Section, cut, render, table_files
from mmdpo.report.reading import RECIPE, TRAINER_STATE, Place, fit, number_at_end, read_lines, read_object
from mmdpo.tables import MISSING, NO_BREAK, Table, matrix
from mmdpo.texts import split_pieces, words_not_shared

CHECKPOINT, CARD, SAMPLES = "checkpoint.json", "README.md", "sample_answers.jsonl"
WEIGHTS = ("*.safetensors", "*.bin")
DATA_KEYS = (
    "dataset_name", "dataset_config", "dataset_train_split", "eval_dataset_name", "test_split_size", "decisions",
    "seed",
)  # fmt: skip
"""Keys of a recipe that say what was trained on; the embedded world draws its pairs by the seed."""
PLACEHOLDER = "<image>"
"""Stands in a prompt where its image goes, which is shown beside."""
OWN_KEYS = ("output_dir", "run_name", "logging_dir")
"""Keys in which every run differs."""
RESULTS = (
    "eval_rewards/accuracies", "rewards/accuracies", "eval_rewards/margins", "rewards/margins",
    "rewards/image_accuracies", "rewards/image_margins", "rewards/chosen", "loss",
)  # fmt: skip
"""Logged metrics of the table of results, as many as `MOST_RESULTS`; the runs stand in the order of the first."""
MOST_RESULTS = 7
LEFT_OUT = ("total_flos", "epoch", "learning_rate")
"""Logged values that say nothing of a result; the CSV beside the page has all."""
SHOWN_STEPS, SHOWN_PROMPTS, SHOWN_RUNS = 8, 8, 5
"""Steps of a run's answers, prompts, and runs beside each other in a table of settings."""
LONGEST_ANSWER = 600
"""Characters of a sample answer on the page; the file beside it has all."""


@dataclass(frozen=True)
class TrainedRun:
    """The files of a training run."""

    label: str
    folder: Path
    recipe: Mapping[str, Any]
    """Empty where it could not be read."""
    history: tuple[Mapping[str, Any], ...]
    """The trainer's `log_history`."""
    versions: Mapping[str, str]
    samples: tuple[Mapping[str, Any], ...] = ()


def read_trained(place: Place, missing: list[str], *, needs_model: bool = True) -> TrainedRun:
    """Reads a run. Raises nothing: what cannot be read, and what the run did not come to, is added to `missing`."""
    folder, problems = place.path, list[str]()
    history = _read_history(folder, problems)
    if needs_model and not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        problems.append("no model was saved, so the run has not come to its end")
    recipe = read_object(folder / RECIPE, problems, costs="its options are not known", read=read_yaml)
    samples = tuple(read_lines(folder / SAMPLES, problems))
    missing += [f"{place.label}: {problem}" for problem in problems]
    return TrainedRun(place.label, folder, recipe, tuple(history), _read_versions(folder), samples)


def _read_history(folder: Path, problems: list[str]) -> list[Mapping[str, Any]]:
    """Returns the log of the run's end, else of its last checkpoint that can be read."""
    own = folder / TRAINER_STATE
    for path in [*([own] if own.is_file() else []), *_in_checkpoints(folder, TRAINER_STATE)]:
        try:
            history: list[Mapping[str, Any]] = fit(read_json(path)["log_history"], [dict], "log_history", problems)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path.relative_to(folder)} is cut short or damaged ({error!r:.80})")
            continue
        if path != own:
            problems.append(f"the curves end at step {number_at_end(path.parent)}, with {path.parent.name}")
        return history
    problems.append("no log of its training (trainer_state.json, or one in a checkpoint), so no curves")
    return []


def _read_versions(folder: Path) -> dict[str, str]:
    """Returns what the last checkpoint, or else the model card, says of the versions that trained."""
    for path in _in_checkpoints(folder, CHECKPOINT):
        versions = read_object(path, [], costs="").get("versions")
        if isinstance(versions, dict):
            return {str(name): str(version) for name, version in versions.items()}
    try:
        card = read_text(folder / CARD).partition("## Versions")[2]
    except (OSError, ValueError):
        return {}
    rows: list[tuple[str, str]] = re.findall(r"^\| (\w[\w.-]*) \| (\w[\w.+-]*) \|$", card, flags=re.MULTILINE)
    return {name: version for name, version in rows if name != "package"}


def _in_checkpoints(folder: Path, name: str) -> list[Path]:
    """Returns the files of this name in the checkpoints of a run, the last one first."""
    return sorted(folder.glob(f"checkpoint-*/{name}"), key=lambda path: number_at_end(path.parent), reverse=True)


def training_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns results, curves and last values of the runs, the best one first.

    Of one run the terms stand together in a panel, of several there is a panel for each metric.
    """
    runs = order_runs(runs)
    if len(runs) == 1:
        panels = curve_panels({runs[0].label: runs[0].history})
    else:
        panels = overlay_panels({run.label: [run.history] for run in runs})
    curves = Curves(panels, "training-curves")
    last = {run.label: last_values(run) for run in runs}
    logged = list(dict.fromkeys(key for of in last.values() for key in of))
    records = [{"run": label, **{key: of.get(key) for key in logged}} for label, of in last.items()]
    results = _tabulate(last, ["step", *[key for key in RESULTS if key in logged][:MOST_RESULTS]], records)
    others = [key for key in logged if key not in LEFT_OUT]
    rows = {label_logged(key).head: {label: label_logged(key).show(of.get(key)) for label, of in last.items()}
            for key in others}  # fmt: skip
    html = render(
        "training.html",
        curves=curves,
        results=results,
        last=matrix("All last logged values", "value", rows, list(last), ()),
        are_several=len(runs) > 1,
    )
    files = table_files("training", results)
    if panels:
        files["curves.png"] = partial(draw_panels, panels)
    differing = [line for run in runs[1:] if (line := _compare_data(runs[0], run))]
    headline = Headline("Training", "training", _say_result(runs, last, differing), results, notes=tuple(differing))
    return Section("training", "Training", html, files, curves, headline)


def last_values(run: TrainedRun) -> dict[str, Any]:
    """Returns the value that each metric was last logged with."""
    return {key: value for record in run.history for key, value in record.items()}


def order_runs(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """Returns the runs by the first of `RESULTS` that any has logged, the best one first, those without last."""
    key = _deciding({run.label: last_values(run) for run in runs})
    sign = 1 if key == "loss" else -1

    def place(run: TrainedRun) -> float:
        value = _number(last_values(run).get(key))
        return math.inf if value is None else sign * value

    return sorted(runs, key=place)


def _deciding(last: Mapping[str, Mapping[str, Any]]) -> str:
    return next((key for key in RESULTS if any(_number(of.get(key)) is not None for of in last.values())), "loss")


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _tabulate(last: Mapping[str, Mapping[str, Any]], keys: Sequence[str], records: Sequence[Any]) -> Table:
    """Returns a row for each run, with a column for each logged metric."""
    heads = ("run", *(label_logged(key).head for key in keys))
    rows = tuple((label, *(label_logged(key).show(of.get(key)) for key in keys)) for label, of in last.items())
    return Table(heads, rows, "Last logged values", tuple(records))


def _say_result(runs: Sequence[TrainedRun], last: Mapping[str, Mapping[str, Any]], differing: Sequence[str]) -> str:
    """Returns what the runs came to in a sentence; it claims no order where they were not trained on the same data."""
    key = _deciding(last)
    label = label_logged(key)
    known = [run.label for run in runs if _number(last[run.label].get(key)) is not None]
    if not known:
        return "No run has logged a result." if len(runs) > 1 else "The run has logged no result."
    unit = f"{NO_BREAK}%" if label.unit.startswith("%") else ""
    said = [f"{label.show(last[name][key])}{unit} ({name})" for name in (known[0], known[-1])]
    name = f"{label.title[0].lower()}{label.title[1:]}"
    if len(runs) == 1:
        return (
            f"After {label_logged('step').show(last[known[0]].get('step'))} steps: {name} {said[0].partition(' (')[0]}."
        )
    if len(known) == 1 or differing:
        return f"{len(runs)} runs; {name} of {known[0]}: {said[0].partition(' (')[0]}."
    return f"{len(runs)} runs; {name} from {said[0]} to {said[1]}."


def _compare_data(first: TrainedRun, other: TrainedRun) -> str:
    if not first.recipe or not other.recipe:
        return ""
    differing = [key for key in DATA_KEYS if first.recipe.get(key) != other.recipe.get(key)]
    said = ", ".join(f"{key} {first.recipe.get(key)} and {other.recipe.get(key)}" for key in differing)
    both = f"{first.label} and {other.label}"
    return f"{both} were not trained on the same data ({said}): losses and rewards do not compare" if said else ""


def settings_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns in what the runs differ, by key and by version, and each resolved recipe."""
    known = {run.label: _flatten(run.recipe) for run in runs if run.recipe}
    keys = dict.fromkeys(key for recipe in known.values() for key in recipe if key not in OWN_KEYS)
    differing = [key for key in keys if len({str(recipe.get(key)) for recipe in known.values()}) > 1]
    records = [{"run": label, **{key: recipe.get(key) for key in keys}} for label, recipe in known.items()]
    settings = _by_run("Keys in which the runs differ", "key", known, differing, records)
    versions = {run.label: run.versions for run in runs if run.versions}
    packages = list(dict.fromkeys(name for of in versions.values() for name in of))
    moved = [name for name in packages if len({of.get(name) for of in versions.values()}) > 1]
    records = [{"run": run.label, **run.versions} for run in runs]
    of_runs = _by_run("Versions in which the runs differ", "package", versions, moved, records)
    equal = {name: next(iter(versions.values()))[name] for name in packages if name not in moved}
    recipes = {
        run.label: yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True) for run in runs if run.recipe
    }
    html = render("settings.html", settings=settings, versions=of_runs, equal=equal, recipes=recipes)
    files = table_files("settings", settings) if settings.rows else {}
    if packages:
        files |= table_files("versions", _by_run("Versions that trained", "package", versions, packages, records))
    return Section("settings", "Settings", html, files)


def _flatten(recipe: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns a recipe with the keys of what lies inside a key beside the others: `model_init_kwargs.dtype`."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        is_nested = isinstance(value, Mapping) and value
        flat |= _flatten(value, f"{before}{key}.") if is_nested else {f"{before}{key}": value}
    return flat


def _by_run(
    title: str, corner: str, values: Mapping[str, Mapping[str, Any]], names: Sequence[str], records: Sequence[Any]
) -> Table:
    """Returns a table with a row for each name and a column for each run; of many runs, a row for each run."""
    shown = {name: {label: str(of[name]) for label, of in values.items() if of.get(name) is not None} for name in names}
    if len(values) <= SHOWN_RUNS:
        table = matrix(title, corner, shown, list(values), records)
    else:
        turned = {label: {name: cells[label] for name, cells in shown.items() if label in cells} for label in values}
        table = matrix(title, "run", turned if names else {}, names, records)
    return replace(table, holds_figures=False)


def samples_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns the answers that were generated while training, for each prompt those of all runs beside each other."""
    prompts: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    folders = {run.label: run.folder for run in runs}
    for run in order_runs(runs):
        for row in run.samples:
            strips = prompts.setdefault((str(row.get("id")), str(row.get("chosen"))), {})
            strips.setdefault(run.label, []).append(row)
    shown = [_show_prompt(strips, folders) for strips in list(prompts.values())[:SHOWN_PROMPTS]]
    left_out = len(prompts) - len(shown)
    html = render("samples.html", prompts=shown, left_out=left_out, file=SAMPLES, are_several=len(runs) > 1)
    headers = ("run", "step", "id", "prompt", "chosen", "rejected", "answer")
    records = [{"run": run.label, **{key: row.get(key) for key in headers[1:]}} for run in runs for row in run.samples]
    rows = tuple(tuple(MISSING if record[key] is None else str(record[key]) for key in headers) for record in records)
    table = Table(headers, rows, "Sample answers", tuple(records))
    return Section("samples", "Sample answers during training", html, table_files("samples", table))


def _show_prompt(strips: Mapping[str, Sequence[Mapping[str, Any]]], folders: Mapping[str, Path]) -> dict[str, Any]:
    """Returns a prompt for samples.html: the answers before training, each said once, and the last of each run."""
    label, (first, *_) = next(iter(strips.items()))
    name = str(first.get("id"))
    pictures = [
        (find_inside(folders[label], path), caption, f"{caption} of example {name}")
        for key, caption in (("pictures", "image"), ("corrupted_pictures", "corrupted"))
        for path in (first[key] if isinstance(first.get(key), list) else ())
    ]
    starts = {of: _read_answer(rows[0]) for of, rows in strips.items() if rows[0].get("step") == 0}
    lasts = {of: rows[-1] for of, rows in strips.items() if rows[-1].get("step") != 0}
    texts = {of: _read_answer(row) for of, row in lasts.items()}
    # What runs are compared with: each other, or, of one alone, the answer before training.
    others = texts.values() if len(texts) > 1 else (*texts.values(), *starts.values())
    prompt = " ".join(str(first.get("prompt", "")).replace(PLACEHOLDER, " ").split())
    return dict(
        title=prompt or name,
        name=name,
        pictures=pictures,
        wanted={key: str(first[key]) for key in ("chosen", "rejected") if first.get(key)},
        starts=_group(starts),
        lasts=[
            dict(
                runs=runs,
                steps=", ".join(dict.fromkeys(str(lasts[of].get("step", "")) for of in runs)),
                pieces=split_pieces(text, (), words_not_shared(text, others)),
            )
            for text, runs in _group(texts).items()
        ],
        between={of: thin(rows) for of, rows in strips.items() if len(rows) > 2},
    )


def _read_answer(row: Mapping[str, Any]) -> str:
    return cut(str(row.get("answer", "")), LONGEST_ANSWER)


def _group(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns which runs say each text."""
    found: dict[str, list[str]] = {}
    for label, text in texts.items():
        found.setdefault(text, []).append(label)
    return found


def thin(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns at most `SHOWN_STEPS` rows, evenly spread, the first and the last among them."""
    if len(rows) <= SHOWN_STEPS:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (SHOWN_STEPS - 1))] for place in range(SHOWN_STEPS)]
