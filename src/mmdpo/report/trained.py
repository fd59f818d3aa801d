"""Runs of `mmdpo train`, whole or died half way: read, and shown as curves, sample answers and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mmdpo.files import find_inside, read_json, read_text, read_yaml
from mmdpo.report.figures import curve_panels, draw_panels, overlay_panels
from mmdpo.report.layout import Curves, Section, render, table_files
from mmdpo.report.reading import RECIPE, TRAINER_STATE, Place, fit, number_at_end, read_lines, read_object
from mmdpo.tables import Table, matrix, show_number

CHECKPOINT, CARD, SAMPLES = "checkpoint.json", "README.md", "sample_answers.jsonl"
WEIGHTS = ("*.safetensors", "*.bin")
DATA_KEYS = (
    "dataset_name", "dataset_config", "dataset_train_split", "eval_dataset_name", "test_split_size", "decisions",
    "seed",
)  # fmt: skip
"""Keys of a recipe that say what was trained on; the embedded world draws its pairs by the seed."""
OWN_KEYS = ("output_dir", "run_name", "logging_dir")
"""Keys in which every run differs."""
SHOWN_METRICS = (
    "rewards/margins", "rewards/accuracies", "rewards/image_margins", "rewards/image_accuracies", "rewards/chosen",
    "logps/chosen", "grad_norm", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "train_runtime",
)  # fmt: skip
"""Metrics of the table of last values, after the loss and its terms; the CSV beside the page has all."""
SHOWN_STEPS, SHOWN_PROMPTS = 8, 8


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
    rows: list[tuple[str, str]] = re.findall(r"^\| ([\w.-]+) \| ([\w.+-]+) \|$", card, flags=re.MULTILINE)
    return {name: version for name, version in rows if name != "package"}


def _in_checkpoints(folder: Path, name: str) -> list[Path]:
    """Returns the files of this name in the checkpoints of a run, the last one first."""
    return sorted(folder.glob(f"checkpoint-*/{name}"), key=lambda path: number_at_end(path.parent), reverse=True)


def training_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns curves and last values of the runs: of one run its terms together, of several a panel for each metric."""
    if len(runs) == 1:
        panels = curve_panels({runs[0].label: runs[0].history})
    else:
        panels = overlay_panels({run.label: [run.history] for run in runs})
    curves = Curves(panels, "training-curves")
    values = {run.label: {key: value for record in run.history for key, value in record.items()} for run in runs}
    logged = list(dict.fromkeys(key for of in values.values() for key in of))
    terms = [key for key in logged if key.startswith("loss/")]
    shown = [key for key in ("step", "loss", *terms, *SHOWN_METRICS) if key in logged]
    rows = {label: {key: show_number(of.get(key)) for key in shown} for label, of in values.items()}
    records = [{"run": label, **{key: of.get(key) for key in logged}} for label, of in values.items()]
    last = matrix("Last logged values", "run", rows, shown, records)
    differing = [line for run in runs[1:] if (line := _compare_data(runs[0], run))]
    html = render("training.html", curves=curves, differing=differing, last=last, are_several=len(runs) > 1)
    files = table_files("training", last)
    if panels:
        files["curves.png"] = partial(draw_panels, panels)
    return Section("training", "Training", html, files, curves)


def _compare_data(first: TrainedRun, other: TrainedRun) -> str:
    if not first.recipe or not other.recipe:
        return ""
    differing = [key for key in DATA_KEYS if first.recipe.get(key) != other.recipe.get(key)]
    said = ", ".join(f"{key} {first.recipe.get(key)} and {other.recipe.get(key)}" for key in differing)
    both = f"{first.label} and {other.label}"
    return f"{both} were not trained on the same data ({said}): losses and rewards do not compare" if said else ""


def settings_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns the resolved recipes, differences first, and the versions."""
    known = {run.label: run.recipe for run in runs if run.recipe}
    keys = dict.fromkeys(key for recipe in known.values() for key in recipe if key not in OWN_KEYS)
    differing = [key for key in keys if len({str(recipe.get(key)) for recipe in known.values()}) > 1]
    records = [{"run": label, **{key: recipe.get(key) for key in keys}} for label, recipe in known.items()]
    settings = _by_run("Keys in which the runs differ", "key", known, differing, records)
    packages = list(dict.fromkeys(name for run in runs for name in run.versions))
    records = [{"run": run.label, **run.versions} for run in runs]
    versions = _by_run("Versions that trained", "package", {r.label: r.versions for r in runs}, packages, records)
    recipes = {label: yaml.safe_dump(dict(of), sort_keys=False, allow_unicode=True) for label, of in known.items()}
    html = render("settings.html", settings=settings, versions=versions, recipes=recipes)
    files = table_files("settings", settings) if settings.rows else {}
    return Section("settings", "Settings", html, files | (table_files("versions", versions) if versions.rows else {}))


def _by_run(
    title: str, corner: str, values: Mapping[str, Mapping[str, Any]], names: Sequence[str], records: Sequence[Any]
) -> Table:
    """Returns a table with a row for each name and a column for each run."""
    shown = {name: {label: str(of[name]) for label, of in values.items() if of.get(name) is not None} for name in names}
    return matrix(title, corner, shown, list(values), records)


def samples_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns the answers that were generated while training: one strip over the steps for each prompt and run."""
    prompts: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    folders = {run.label: run.folder for run in runs}
    for run in runs:
        for row in run.samples:
            strips = prompts.setdefault((str(row.get("id")), str(row.get("chosen"))), {})
            strips.setdefault(run.label, []).append(row)
    shown = []
    for (name, _), strips in list(prompts.items())[:SHOWN_PROMPTS]:
        label, (first, *_) = next(iter(strips.items()))
        pictures = [
            (find_inside(folders[label], path), caption, f"{caption} of example {name}")
            for key, caption in (("pictures", "image"), ("corrupted_pictures", "corrupted"))
            for path in (first[key] if isinstance(first.get(key), list) else ())
        ]
        strips = {of: thin(rows) for of, rows in strips.items()}
        shown.append(dict(name=name, first=first, pictures=pictures, strips=strips))
    left_out = len(prompts) - len(shown)
    html = render("samples.html", prompts=shown, most_steps=SHOWN_STEPS, left_out=left_out, file=SAMPLES)
    headers = ("run", "step", "id", "prompt", "chosen", "answer")
    records = [{"run": run.label, **{key: row.get(key) for key in headers[1:]}} for run in runs for row in run.samples]
    rows = tuple(tuple(str(record[key]) for key in headers) for record in records)
    table = Table(headers, rows, "Sample answers", tuple(records))
    return Section("samples", "Sample answers during training", html, table_files("samples", table))


def thin(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns at most `SHOWN_STEPS` rows, the first and the last among them."""
    if len(rows) <= SHOWN_STEPS:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (SHOWN_STEPS - 1))] for place in range(SHOWN_STEPS)]
