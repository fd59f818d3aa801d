"""Training runs on a page: the last logged values, the curves over each other, and how the runs were set up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import yaml

from mmdpo.report.curves import Panel, curve_panels, overlay_panels
from mmdpo.report.figures import draw_panels
from mmdpo.report.layout import Section, bullets, curves_html, curves_rules, details, paragraph, table_html
from mmdpo.report.trained import TrainedRun
from mmdpo.tables import MISSING, Table, matrix, show_number

DATA_KEYS = (
    "dataset_name", "dataset_config", "dataset_train_split", "eval_dataset_name", "test_split_size", "seed",
)  # fmt: skip
"""Keys of a recipe that say what was trained on; the embedded world draws its pairs by the seed."""
OWN_KEYS = ("output_dir", "run_name", "logging_dir")
"""Keys in which every run differs."""
SHOWN = (
    "rewards/margins", "rewards/accuracies", "rewards/image_margins", "rewards/image_accuracies", "rewards/chosen",
    "logps/chosen", "grad_norm", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "train_runtime",
)  # fmt: skip
"""Metrics of the table of last values, behind the loss and its terms; the CSV beside the page has all."""
CURVES_NOTE = (
    "As the trainers logged it: means over the pairs since the last log. Rewards of chosen, rejected and corrupted "
    "have one scale."
)
PICK_NOTE = "Untick a run to take it out of all panels; point at it to let it stand out."


def training_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns curves and last values of the runs."""
    panels = panels_of({run.label: run.history for run in runs})
    grid = _last_values(runs)
    differing = [line for run in runs[1:] if (line := _compare_data(runs[0], run))]
    html = [
        bullets(differing),
        paragraph(f"{CURVES_NOTE} {PICK_NOTE if len(runs) > 1 else ''}".strip() if panels else "No run left a log."),
        curves_html(panels, "training-curves"),
        "<h3>Last logged values</h3>",
        table_html(grid),
    ]
    return Section(
        "training",
        "Training",
        "\n".join(part for part in html if part),
        tables={"training": grid},
        figures={"curves": partial(draw_panels, panels)} if panels else {},
        rules=curves_rules(panels, "training-curves"),
    )


def panels_of(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    """Returns the panels of one run, its terms together, or of several, one panel for each metric."""
    if len(histories) == 1:
        return curve_panels(histories)
    return overlay_panels({name: [log] for name, log in histories.items()})


def settings_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns the resolved recipes, differences first, and the versions."""
    known = [run for run in runs if run.recipe]
    grids = {"settings": _differences(known), "versions": _versions(runs)}
    html = []
    if len(known) > 1:
        html.append(paragraph("Keys in which the runs differ:" if grids["settings"].rows else "All keys are the same."))
    html += [table_html(grids["settings"])] if grids["settings"].rows else []
    html += [table_html(grids["versions"])] if grids["versions"].rows else []
    for run in known:
        written = yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True)
        html.append(details(f"The whole recipe of {run.label}", f"<pre>{escape(written)}</pre>"))
    tables = {name: grid for name, grid in grids.items() if grid.rows}
    return Section("settings", "Settings", "\n".join(html) or paragraph("No recipe could be read."), tables=tables)


def _last_values(runs: Sequence[TrainedRun]) -> Table:
    last = {run.label: {key: value for record in run.history for key, value in record.items()} for run in runs}
    logged = list(dict.fromkeys(key for values in last.values() for key in values))
    terms = [key for key in logged if key.startswith("loss/")]
    shown = [key for key in ("step", "loss", *terms, *SHOWN) if key in logged]
    rows = {label: {key: show_number(values.get(key)) for key in shown} for label, values in last.items()}
    records = [{"run": label, **{key: values.get(key) for key in logged}} for label, values in last.items()]
    return matrix("Last logged values", "run", rows, shown, records)


def _compare_data(first: TrainedRun, other: TrainedRun) -> str:
    if not first.recipe or not other.recipe:
        return ""
    differing = [key for key in DATA_KEYS if first.recipe.get(key) != other.recipe.get(key)]
    if not differing:
        return ""
    said = ", ".join(f"{key} {first.recipe.get(key)} and {other.recipe.get(key)}" for key in differing)
    return (
        f"{first.label} and {other.label} were not trained on the same data ({said}): losses and rewards do not compare"
    )


def _differences(runs: Sequence[TrainedRun]) -> Table:
    keys = dict.fromkeys(key for run in runs for key in run.recipe if key not in OWN_KEYS)
    differing = [key for key in keys if len({str(run.recipe.get(key)) for run in runs}) > 1]
    rows = {key: {run.label: _show(run.recipe.get(key)) for run in runs} for key in differing}
    records = [{"run": run.label, **{key: run.recipe.get(key) for key in keys}} for run in runs]
    return matrix("Keys in which the runs differ", "key", rows, [run.label for run in runs], records)


def _show(value: Any) -> str:
    return MISSING if value is None else str(value)


def _versions(runs: Sequence[TrainedRun]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.versions))
    rows = {name: {run.label: _show(run.versions.get(name)) for run in runs} for name in names}
    records = [{"run": run.label, **run.versions} for run in runs]
    return matrix("Versions that trained", "package", rows, [run.label for run in runs], records)
