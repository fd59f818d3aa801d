"""The model card of a run: what its own files say of model, data, objective, hyperparameters and results.

Only the recipe's keys named here are read. A recipe holds no tokens, and neither does what is made of it. Whoever wrote
the run, no code that it names is run: an objective from outside mmdpo stands here as it is written.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from mmdpo.files import check_regular, read_json, read_text, read_yaml, write_text
from mmdpo.keys import list_deciding
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import CheckpointError
from mmdpo.objective import build_objective
from mmdpo.report.figures import curve_panels, draw_panels
from mmdpo.tables import Table

CARD, CURVES, RECIPE = "README.md", "curves.png", "recipe.yaml"
TRAINER_STATE = "trainer_state.json"
PROBE = "probe.json"
"""File of a run folder: how rows were scored, and what the probe before training found."""

MOST_CARD_BYTES = 2**20
"""A longer card of a base is not read for its licence."""

LORA_ONLY = ("lora_", "use_dora", "use_rslora")

PACKAGES = ("mmdpo", "torch", "transformers", "peft", "accelerate", "datasets")

SOURCE = Path(__file__).parents[3]
"""Where `.git` lies if mmdpo is run from a checkout."""

PAPER = "https://arxiv.org/abs/2406.11839"

ASK = """\
image = Image.open("picture.jpg")  # a picture of yours
content = [{"type": "image", "image": image}, {"type": "text", "text": "Describe this picture."}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=128)
print(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
"""How the model is asked, with what `_use` has loaded."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_card(run: Path, target: Path | None = None, *, title: str | None = None) -> Path:
    """Writes README.md, and curves.png beside it, for what lies in `target` (the run folder itself unless given).

    The title is the folder's name unless given. What the run left no file for is left out. Raises CheckpointError for a
    file of the run that cannot be read.
    """
    target = run if target is None else target
    recipe = _read_recipe(run)
    history = _read_history(run)
    has_adapter = (target / ADAPTER_CONFIG).is_file()
    base = find_base(run, recipe)
    name = _objective_name(recipe)
    sections = [
        _front_matter(_metadata(base, recipe, has_adapter)),
        f"# {title or target.resolve().name}\n\n{_introduction(base, name, has_adapter)}",
        _use(base, has_adapter),
        _data(recipe, run),
        _objective(recipe),
        _table("Hyperparameters", ("key", "value"), hyperparameters(recipe)),
        _table("Scoring", ("", ""), _scoring(run)),
        _table("Results", ("metric", "value"), _results(run, history)),
        _curves(history, name, target),
        _table("Versions", ("package", "version"), _versions()),
        f"The card was written by mmdpo; {RECIPE} in the run folder repeats the run." if recipe else "",
    ]
    path = target / CARD
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def find_base(run: Path, recipe: Mapping[str, Any] | None = None) -> str | None:
    """Returns the model that a run started from, as its recipe or its adapter names it; None where neither does."""
    recipe = _read_recipe(run) if recipe is None else recipe
    named = recipe.get("model_name_or_path")
    if named is None and (run / ADAPTER_CONFIG).is_file():
        named = _read_object(run / ADAPTER_CONFIG).get("base_model_name_or_path")
    return None if named is None else str(named)


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


def _read_history(run: Path) -> list[dict[str, Any]]:
    history = _read_object(run / TRAINER_STATE).get("log_history")
    return [record for record in history if isinstance(record, dict)] if isinstance(history, list) else []


def _metadata(base: str | None, recipe: Mapping[str, Any], has_adapter: bool) -> dict[str, Any]:
    """Returns the YAML front matter; what is on no hub is not named, and a licence only if the base has it."""
    dataset = str(recipe.get("dataset_name", ""))
    tags = ["mmdpo", "preference-optimization", "vision-language", _tag(recipe)]
    found = {
        "base_model": base if base is not None and _is_hub_name(base) else None,
        "license": _license_of(base),
        "library_name": "peft" if has_adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "datasets": [dataset] if _is_hub_name(dataset) else None,
        "tags": tags,
    }
    return {key: value for key, value in found.items() if value is not None}


def _front_matter(values: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}---"


def _license_of(base: str | None) -> str | None:
    """Returns the licence that the base's own card names, if that card is at hand."""
    if base is None:
        return None
    if _exists(base):
        path: Any = Path(base) / CARD
    else:
        path = try_to_load_from_cache(base, CARD) if _is_hub_name(base) else None
    if not isinstance(path, str | Path):
        return None
    try:
        parts = read_text(Path(path), most=MOST_CARD_BYTES).split("---\n")
        values = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None  # a card of somebody else's that cannot be read names no licence
    found = values.get("license") if isinstance(values, dict) else None
    return found if isinstance(found, str) else None


def _introduction(base: str | None, objective: str, has_adapter: bool) -> str:
    start = "a vision-language model" if base is None else f"[{base}](https://huggingface.co/{base})"
    if base is not None and not _is_hub_name(base):
        start = f"`{_short(base)}`"
    what = "An adapter for" if has_adapter else "A model trained from"
    return f"{what} {start}, trained with {objective} on preference pairs by mmdpo, which implements [mDPO]({PAPER})."


def _use(base: str | None, has_adapter: bool) -> str:
    """Returns code that runs as it stands, in the folder of the card: load, open a picture, ask."""
    lines = ["from PIL import Image", "from transformers import AutoModelForImageTextToText, AutoProcessor", ""]
    lines.append('folder = "."  # this folder, or the name that it has on the Hub')
    if has_adapter:
        lines.insert(0, "from peft import PeftConfig, PeftModel")
        lines += [
            "base = PeftConfig.from_pretrained(folder).base_model_name_or_path"
            + ("" if base is None or _is_hub_name(base) else f"  # {_short(base)}: if it lies elsewhere now, its path"),
            'model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")',
            "model = PeftModel.from_pretrained(model, folder)",
        ]
    else:
        lines.append('model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")')
    lines += ["processor = AutoProcessor.from_pretrained(folder)", "", ASK]
    code = "\n".join(lines)
    hint = "\n\n`mmdpo merge` makes one model of base and adapter." if has_adapter else ""
    return f"## Use\n\n```python\n{code}\n```{hint}"


def _data(recipe: Mapping[str, Any], run: Path) -> str:
    rows: list[tuple[str, Any]] = []
    for key in ("dataset_name", "dataset_config", "dataset_train_split", "eval_dataset_name", "test_split_size"):
        value = recipe.get(key)
        if value is not None:
            rows.append((key, _short(value) if isinstance(value, str) else value))
    results = _read_results(run, "train")
    if "train_samples" in results:
        rows.append(("training pairs", results["train_samples"]))
    skipped = run / "skipped_rows.jsonl"
    if skipped.is_file():
        check_regular(skipped)
        with skipped.open("rb") as lines:
            rows.append(("rows skipped as faulty", sum(1 for line in lines if line.strip())))
    return _table("Data", ("", ""), rows)


def _objective(recipe: Mapping[str, Any]) -> str:
    written = recipe.get("objective")
    if written is None:
        return ""
    try:
        objective = build_objective(written if isinstance(written, str) else json.dumps(written), runs_others=False)
    except (ValueError, TypeError):  # somebody's own module, or what no objective is
        return f"## Objective\n\n`{' '.join(str(written).replace('`', '').split())}`"
    rows = [
        (
            f"`{term.label}`",
            type(term).__name__,
            ", ".join(f"[{cell.image}, {cell.response}]" for cell in term.cells),
            f"{term.weight:g}{f' · {term.weight_column}' if term.weight_column else ''}",
        )
        for term in objective.terms
    ]
    return _table(f"Objective: {_objective_name(recipe)}", ("term", "kind", "cells [image, response]", "weight"), rows)


def hyperparameters(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the keys that decide what was learnt; the objective has a section of its own."""
    is_shown = {key: key != "objective" and (not key.startswith(LORA_ONLY) or recipe.get("use_peft")) for key in recipe}
    given = {key: recipe[key] for key in list_deciding("loss", "length") if is_shown.get(key)}
    return [
        (key, _short(value) if isinstance(value, str) else value)
        for key, value in given.items()
        if value is not None and value is not False and (key, value) != ("max_steps", -1)
    ]


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


def _results(run: Path, history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the metrics of the last log of training, and those of the last evaluation."""
    last: Mapping[str, Any] = next((record for record in reversed(history) if "loss" in record), {})
    evaluated = _read_results(run, "eval") or next(
        (record for record in reversed(history) if any(key.startswith("eval_") for key in record)), {}
    )
    metrics = {**last, **{key: value for key, value in evaluated.items() if key.startswith("eval_")}}
    speed = ("runtime", "per_second", "epoch", "step", "learning_rate", "samples")
    return [
        (f"`{key}`", f"{value:.4g}")
        for key, value in metrics.items()
        if isinstance(value, int | float) and not any(word in key for word in speed)
    ]


def _curves(history: Sequence[Mapping[str, Any]], name: str, target: Path) -> str:
    path = draw_panels(curve_panels({name: history}), target / CURVES)
    return "" if path is None else f"![Curves of the training run: loss, its terms, rewards, gradient norm]({CURVES})"


def _versions() -> list[tuple[str, str]]:
    rows = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            continue
    commit = _find_commit()
    return [*rows, *([] if commit is None else [("mmdpo's commit", commit)])]


def _find_commit() -> str | None:
    """Returns the commit that mmdpo was installed or is run from; None where it came as a package."""
    try:
        installed = json.loads(distribution("mmdpo").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        installed = {}
    if "vcs_info" in installed:
        return str(installed["vcs_info"]["commit_id"])
    if not (SOURCE / ".git").exists():
        return None
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=, with changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or not its folder
        return None


def _read_results(run: Path, part: str) -> dict[str, Any]:
    return _read_object(run / f"{part}_results.json")


def _table(title: str, head: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    return f"## {title}\n\n{Table(head, cells, holds_figures=False).markdown().rstrip()}"


def _objective_name(recipe: Mapping[str, Any]) -> str:
    written = recipe.get("objective")
    return written if isinstance(written, str) and len(written) < 60 else "an objective of its own terms"


def _tag(recipe: Mapping[str, Any]) -> str:
    written = recipe.get("objective")
    return written if isinstance(written, str) and written.isidentifier() else "dpo"


def _is_hub_name(name: str) -> bool:
    return HUB_NAME.fullmatch(name) is not None and not _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no name of a file, since it is too long or holds a null
        return False


def _short(value: str) -> str:
    """Returns the last part of a path of this machine, which says nothing to a reader elsewhere."""
    is_path = value.startswith((os.sep, ".", "~")) or _exists(value)
    return Path(value).name if is_path else value
