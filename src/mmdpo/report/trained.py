"""Reads the folder of `mmdpo train`, whole or of a run that died: what is missing is said, and the rest is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmdpo.report.folders import RECIPE, Place
from mmdpo.report.runs import TRAINER_STATE

CHECKPOINT, CARD, SAMPLES = "checkpoint.json", "README.md", "sample_answers.jsonl"
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class TrainedRun:
    """What a run of training left behind."""

    label: str
    folder: Path
    recipe: Mapping[str, Any]
    """Empty where it could not be read."""
    history: tuple[Mapping[str, Any], ...]
    """The trainer's `log_history`."""
    versions: Mapping[str, str]
    samples: tuple[Mapping[str, Any], ...]
    """The lines of sample_answers.jsonl."""
    missing: tuple[str, ...]
    """What could not be read, and what the run did not come to."""


def read_trained(place: Place, *, needs_model: bool = True) -> TrainedRun:
    """Reads a run. Raises nothing: what cannot be read stands in `missing`."""
    missing: list[str] = []
    history = _read_history(place, missing)
    if needs_model and not any(path for pattern in WEIGHTS for path in place.path.glob(pattern)):
        missing.append(f"{place.label}: no model was saved, so the run has not come to its end")
    return TrainedRun(
        place.label,
        place.path,
        _read_recipe(place, missing),
        tuple(history),
        _read_versions(place.path),
        tuple(read_lines(place.path / SAMPLES, place.label, missing)),
        tuple(missing),
    )


def read_object(path: Path, label: str, missing: list[str], *, what: str) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one, and a line in `missing`, where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        missing.append(f"{label}: there is no {path.name}, so {what}")
        return {}
    except ValueError as error:
        missing.append(f"{label}: {path.name} is cut short or damaged ({error}), so {what}")
        return {}
    if not isinstance(content, dict):
        missing.append(f"{label}: {path.name} holds no object, so {what}")
        return {}
    return content


def read_lines(path: Path, label: str, missing: list[str], *, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file of JSON lines, the first `most`; nothing where there is no file."""
    if not path.is_file():
        return
    damaged = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if number == most:
                break
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            elif line.strip():
                damaged += 1
    if damaged:
        missing.append(f"{label}: {damaged} lines of {path.name} are damaged and left out")


def _read_history(place: Place, missing: list[str]) -> list[Mapping[str, Any]]:
    """Returns the log of the run's end, else of its last checkpoint that can be read."""
    own = place.path / TRAINER_STATE
    checkpoints = sorted(place.path.glob(f"checkpoint-*/{TRAINER_STATE}"), key=_step_of, reverse=True)
    for path in [*([own] if own.is_file() else []), *checkpoints]:
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
            history = [record for record in history if isinstance(record, dict)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing.append(f"{place.label}: {path.relative_to(place.path)} is cut short or damaged ({error!r:.80})")
            continue
        if path != own:
            missing.append(f"{place.label}: the curves end at step {_step_of(path)}, with {path.parent.name}")
        return history
    missing.append(f"{place.label}: no log of its training (trainer_state.json, or one in a checkpoint), so no curves")
    return []


def _step_of(path: Path) -> int:
    digits = path.parent.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _read_recipe(place: Place, missing: list[str]) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load((place.path / RECIPE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        missing.append(f"{place.label}: {RECIPE} cannot be read ({type(error).__name__}), so its options are not known")
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _read_versions(folder: Path) -> dict[str, str]:
    """Returns what the last checkpoint, or else the model card, says of the versions that trained."""
    for path in sorted(folder.glob(f"checkpoint-*/{CHECKPOINT}"), key=_step_of, reverse=True):
        versions = read_object(path, "", [], what="").get("versions")
        if isinstance(versions, dict):
            return {str(name): str(version) for name, version in versions.items()}
    try:
        card = (folder / CARD).read_text(encoding="utf-8").partition("## Versions")[2]
    except OSError:
        return {}
    rows: list[tuple[str, str]] = re.findall(r"^\| ([\w.-]+) \| ([\w.+-]+) \|$", card, flags=re.MULTILINE)
    return {name: version for name, version in rows if name != "package"}
