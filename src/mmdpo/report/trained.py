"""Reads the folder of `mmdpo train`, whole or of a run that died: what is missing is said, and the rest is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.files import read_json, read_rows, read_text, read_yaml
from mmdpo.report.folders import RECIPE, Place, number_at_end
from mmdpo.report.runs import TRAINER_STATE
from mmdpo.report.shape import fit

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
        content = read_json(path)
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
    damaged = 0
    try:
        for row in read_rows(path, most=most):
            if isinstance(row, dict):
                yield row
            else:
                damaged += 1
    except OSError:
        return
    except ValueError as error:
        missing.append(f"{label}: {path.name} is not read: {error}")
    if damaged:
        missing.append(f"{label}: {damaged} lines of {path.name} are damaged and left out")


def _read_history(place: Place, missing: list[str]) -> list[Mapping[str, Any]]:
    """Returns the log of the run's end, else of its last checkpoint that can be read."""
    own = place.path / TRAINER_STATE
    checkpoints = sorted(place.path.glob(f"checkpoint-*/{TRAINER_STATE}"), key=_step_of, reverse=True)
    for path in [*([own] if own.is_file() else []), *checkpoints]:
        try:
            state = read_json(path)
            history: list[Mapping[str, Any]] = fit(state["log_history"], [dict], f"{place.label}: log_history", missing)
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing.append(f"{place.label}: {path.relative_to(place.path)} is cut short or damaged ({error!r:.80})")
            continue
        if path != own:
            missing.append(f"{place.label}: the curves end at step {_step_of(path)}, with {path.parent.name}")
        return history
    missing.append(f"{place.label}: no log of its training (trainer_state.json, or one in a checkpoint), so no curves")
    return []


def _step_of(path: Path) -> int:
    return number_at_end(path.parent)


def _read_recipe(place: Place, missing: list[str]) -> dict[str, Any]:
    try:
        recipe = read_yaml(place.path / RECIPE)
    except FileNotFoundError:
        missing.append(f"{place.label}: there is no {RECIPE}, so its options are not known")
        return {}
    except (OSError, ValueError) as error:
        missing.append(f"{place.label}: {RECIPE} cannot be read ({error}), so its options are not known")
        return {}
    return fit(recipe, dict, f"{place.label}: {RECIPE}", missing) or {}


def _read_versions(folder: Path) -> dict[str, str]:
    """Returns what the last checkpoint, or else the model card, says of the versions that trained."""
    for path in sorted(folder.glob(f"checkpoint-*/{CHECKPOINT}"), key=_step_of, reverse=True):
        versions = read_object(path, "", [], what="").get("versions")
        if isinstance(versions, dict):
            return {str(name): str(version) for name, version in versions.items()}
    try:
        card = read_text(folder / CARD).partition("## Versions")[2]
    except (OSError, ValueError):
        return {}
    rows: list[tuple[str, str]] = re.findall(r"^\| ([\w.-]+) \| ([\w.+-]+) \|$", card, flags=re.MULTILINE)
    return {name: version for name, version in rows if name != "package"}
