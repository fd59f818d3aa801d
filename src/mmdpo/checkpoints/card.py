"""The model card of a run: what its own files say of model, data, objective, hyperparameters and results.

Only the recipe's keys named here are read. A recipe holds no tokens, and neither does what is made of it. Whoever wrote
the run, no code that it names is run: an objective from outside mmdpo stands here as it is written.
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from jinja2 import StrictUndefined, Template

from mmdpo.files import check_regular, read_json, read_text, read_yaml, write_text
from mmdpo.keys import list_deciding, list_keys
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import CheckpointError
from mmdpo.objective import build_objective
from mmdpo.registry import list_versions
from mmdpo.report.figures import curve_panels, draw_panels
from mmdpo.tables import Table

CARD, CURVES, RECIPE, TRAINER_STATE = "README.md", "curves.png", "recipe.yaml", "trainer_state.json"
TEMPLATE = "chat_template.jinja"
"""File of a processor that has a chat template; some have none, as PaliGemma's."""
PROBE = "probe.json"
"""File of a run folder: how rows were scored, and what the probe before training found."""

_TEMPLATE = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
_CARD = Template(_TEMPLATE, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)


def write_card(run: Path, target: Path | None = None, *, title: str | None = None, base: str | None = None) -> Path:
    """Writes README.md, and curves.png beside it, for what lies in `target` (the run folder itself unless given).

    The title is the folder's name unless given, and the base is what the run names. What the run left no file for is
    left out. Raises CheckpointError for a file of the run that cannot be read.
    """
    target = run if target is None else target
    recipe = _read_recipe(run)
    history = _read_object(run / TRAINER_STATE).get("log_history")
    logs = [log for log in history if isinstance(log, dict)] if isinstance(history, list) else []
    base = base or find_base(run, recipe)
    is_local = base is not None and not _is_hub_name(base)
    written = recipe.get("objective")
    objective = written if isinstance(written, str) and len(written) < 60 else "an objective of its own terms"
    has_adapter = (target / ADAPTER_CONFIG).is_file()
    curves = draw_panels(curve_panels({objective: logs}), target / CURVES)
    text = _CARD.render(
        front=yaml.safe_dump(_metadata(base, recipe, has_adapter), sort_keys=False, allow_unicode=True),
        title=title or target.resolve().name,
        has_adapter=has_adapter,
        has_template=(target / TEMPLATE).is_file(),
        base=f"`{_short(base)}`" if base and is_local else f"[{base}](https://huggingface.co/{base})" if base else None,
        local_base=_short(base) if base and is_local else None,
        objective=objective,
        sections=[
            _table("Data", ("", ""), _data(recipe, run)),
            _objective(written, objective),
            _table("Hyperparameters", ("key", "value"), hyperparameters(recipe)),
            _table("Scoring", ("", ""), _scoring(run)),
            _table("Results", ("metric", "value"), _results(run, logs)),
            f"![Curves of the training run: loss, its terms, rewards, gradient norm]({CURVES})" if curves else "",
            _table("Versions", ("package", "version"), _versions()),
        ],
        is_repeatable=bool(recipe),
    )
    path = target / CARD
    write_text(path, text)
    return path


def find_base(run: Path, recipe: Mapping[str, Any] | None = None) -> str | None:
    """Returns the model that a run started from, as its recipe or its adapter names it; None where neither does."""
    named = (_read_recipe(run) if recipe is None else recipe).get("model_name_or_path")
    if named is None:
        named = _read_object(run / ADAPTER_CONFIG).get("base_model_name_or_path")
    return None if named is None else str(named)


def find_start_adapter(run: Path) -> str | None:
    """Returns the adapter that a run has trained further, as its recipe names it; None for one that began anew."""
    named = _read_recipe(run).get("adapter_name_or_path")
    return None if named is None else str(named)


def hyperparameters(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the keys that decide what was learnt; the objective has a section of its own."""
    unused = ("objective",) if recipe.get("use_peft") else ("objective", "lora_", "use_dora", "use_rslora")
    given = {key: recipe[key] for key in list_deciding("loss", "length") if key in recipe}
    on = {key.name for keys in list_keys().values() for key in keys if key.default == "True"}
    return [
        (key, _short(value))
        for key, value in given.items()
        if not (key.startswith(unused) or value is None or (key, value) == ("max_steps", -1))
        and (value is not False or key in on)
    ]


def _read_recipe(run: Path) -> dict[str, Any]:
    # A checkpoint lies inside its run.
    path = next((folder / RECIPE for folder in (run, run.parent) if (folder / RECIPE).is_file()), None)
    if path is None or (path.parent != run and not (run / TRAINER_STATE).is_file()):
        return {}
    try:
        recipe = read_yaml(path)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return recipe if isinstance(recipe, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    """Returns what a JSON file of the run holds, {} where there is none; raises CheckpointError for a damaged one."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no object")
    return content


def _metadata(base: str | None, recipe: Mapping[str, Any], has_adapter: bool) -> dict[str, Any]:
    """Returns the YAML front matter; what is on no hub is not named, and a licence only if the base has it."""
    dataset, written = str(recipe.get("dataset_name", "")), recipe.get("objective")
    tag = written if isinstance(written, str) and written.isidentifier() else "dpo"
    found = {
        "base_model": base if base is not None and _is_hub_name(base) else None,
        "license": _license_of(base),
        "library_name": "peft" if has_adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "datasets": [dataset] if _is_hub_name(dataset) else None,
        "tags": ["mmdpo", "preference-optimization", "vision-language", tag],
    }
    return {key: value for key, value in found.items() if value is not None}


def _license_of(base: str | None) -> str | None:
    """Returns the licence that the base's own card names, if that card is at hand."""
    if base is not None and _is_hub_name(base):
        cached = try_to_load_from_cache(base, CARD)
        path = Path(cached) if isinstance(cached, str) else None
    else:
        path = Path(base) / CARD if base is not None and _exists(base) else None
    if path is None:
        return None
    try:
        parts = read_text(path, most=2**20).split("---\n")
        values = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None  # a card of somebody else's that cannot be read names no licence
    found = values.get("license") if isinstance(values, dict) else None
    return found if isinstance(found, str) else None


def _data(recipe: Mapping[str, Any], run: Path) -> list[tuple[str, Any]]:
    keys = (
        "dataset_name",
        "dataset_config",
        "dataset_train_split",
        "eval_dataset_name",
        "test_split_size",
        "decisions",
    )
    rows = [(key, _short(recipe[key])) for key in keys if recipe.get(key) is not None]
    results = _read_object(run / "train_results.json")
    if "train_samples" in results:
        rows.append(("training pairs", results["train_samples"]))
    skipped = run / "skipped_rows.jsonl"
    if skipped.is_file():
        check_regular(skipped)
        with skipped.open("rb") as lines:
            rows.append(("rows skipped as faulty", sum(1 for line in lines if line.strip())))
    return rows


def _objective(written: Any, name: str) -> str:
    if written is None:
        return ""
    try:
        objective = build_objective(written if isinstance(written, str) else json.dumps(written), runs_others=False)
    except (ValueError, TypeError):  # somebody's own module, or what no objective is
        return f"## Objective\n\n`{' '.join(str(written).replace('`', '').split())}`"
    rows = []
    for term in objective.terms:
        weight = f"{term.weight:g} · {term.weight_column}" if term.weight_column else f"{term.weight:g}"
        rows.append((f"`{term.label}`", type(term).__name__, ", ".join(map(str, term.cells)), weight))
    return _table(f"Objective: {name}", ("term", "kind", "cells [image, response]", "weight"), rows)


def _scoring(run: Path) -> list[tuple[str, str]]:
    """Returns how the run scored its rows, and what the probe before it found."""
    found = _read_object(run / PROBE)
    if not found:
        return []
    rows = [("rows", str(found.get("rows", "")))]
    if "why_separate" in found:
        rows.append(("why separate", str(found["why_separate"])))
    if "skipped" in found:
        return [*rows, ("probe", f"not made: {found['skipped']}")]
    try:
        apart, explained = f"{found['distance']:.2g}", f"{found['tolerance']:g}"
        told = f"within {apart} nats a token of plain forwards ({found['precision']}; rounding explains {explained})"
    except (KeyError, ValueError, TypeError) as error:  # a record of somebody else's may lack anything
        raise CheckpointError(f"{run / PROBE} is no record of a probe ({error!r}): remove it") from error
    return [*rows, ("probe", told)]


def _results(run: Path, logs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the metrics of the last log of training, and those of the last evaluation."""
    last: Mapping[str, Any] = next((log for log in reversed(logs) if "loss" in log), {})
    evaluated = _read_object(run / "eval_results.json") or next(
        (log for log in reversed(logs) if any(key.startswith("eval_") for key in log)), {}
    )
    metrics = {**last, **{key: value for key, value in evaluated.items() if key.startswith("eval_")}}
    speed = ("runtime", "per_second", "epoch", "step", "learning_rate", "samples")
    return [
        (f"`{key}`", f"{value:.4g}")
        for key, value in metrics.items()
        if isinstance(value, int | float) and not any(word in key for word in speed)
    ]


def _versions() -> list[tuple[str, str]]:
    packages = list_versions("mmdpo", "torch", "transformers", "peft", "accelerate", "datasets")
    rows, commit = [("Python", platform.python_version()), *packages.items()], _find_commit()
    return rows if commit is None else [*rows, ("mmdpo's commit", commit)]


def _find_commit() -> str | None:
    """Returns the commit that mmdpo was installed or is run from; None where it came as a package."""
    try:
        installed = json.loads(distribution("mmdpo").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        installed = {}
    if "vcs_info" in installed:
        return str(installed["vcs_info"]["commit_id"])
    source = Path(__file__).parents[3]  # of a checkout
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=, with changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or not its folder
        return None


def _table(title: str, head: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    return f"## {title}\n\n{Table(head, cells, holds_figures=False).markdown().rstrip()}"


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None and not _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no name of a file, since it is too long or holds a null
        return False


def _short(value: Any) -> Any:
    """Returns the last part of a path of this machine, which says nothing to a reader elsewhere; any other as it is."""
    is_path = isinstance(value, str) and (value.startswith((os.sep, ".", "~")) or _exists(value))
    return Path(value).name if is_path else value
