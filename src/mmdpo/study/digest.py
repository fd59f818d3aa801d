"""What decides the outcome of a trial, as one digest: options, seed, evaluation, files, code and libraries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmdpo.study.design import Evaluation, Variant
from mmdpo.world.worlds import SMALL, find_world

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
DECIDING = (
    *("records.py", "benchmarks", "corruption", "data", "models", "generation", "objective", "scoring", "training"),
    *("world", "study/measures.py", "study/reliance.py", "study/trial.py", "study/variants.py"),
)
"""The parts of this package that a trial's numbers come from; the others arrange and print them."""
PATHS = ("model_name_or_path", "adapter_name_or_path", "dataset_name", "eval_dataset_name", "chat_template")
"""Options that may name files."""


def digest_trial(variant: Variant, seed: int, evaluation: Evaluation, *, keeps_model: bool) -> str:
    """Returns the digest of a trial: another one, and it is run again.

    Files of a folder (a model, a dataset) are known by name, size and time of change, single files by their content.
    Pictures that a dataset names by their paths are not looked at.
    """
    named = [variant.options.get(key) for key in PATHS]
    named += [evaluation.dataset_name, *(entry.get("data_dir") for entry in evaluation.benchmarks)]
    content = {
        "variant": {key: value for key, value in asdict(variant).items() if key not in ("name", "about")},
        "seed": seed,
        "evaluation": asdict(evaluation),
        "keeps_model": keeps_model,
        "files": {str(name): _digest_named(str(name)) for name in named if name is not None},
        "code": digest_code(),
        "libraries": library_versions(),
    }
    return _digest_json(content)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that compute."""
    return {name: version(name) for name in LIBRARIES}


@cache
def digest_code() -> str:
    """Returns the digest of the parts of this package that decide numbers."""
    root = Path(str(files("mmdpo")))
    total = hashlib.sha256()
    for part in DECIDING:
        for path in sorted([root / part] if (root / part).is_file() else (root / part).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                total.update(f"{path.relative_to(root)}\x1f".encode())
                total.update(path.read_bytes())
    return total.hexdigest()


def _digest_named(name: str) -> str:
    """Returns the digest of what an option names. Raises FileNotFoundError for a world that has yet to be built."""
    world = find_world(name)
    if world is SMALL:
        return ""  # it ships with the code
    return _digest_path(Path(name) if world is None else world.checkpoint)


def _digest_path(path: Path) -> str:
    """Returns the digest of a file or folder; nothing for a name that is neither, such as one of the hub."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return ""
    found = {}
    for inside in sorted(path.rglob("*")):
        if inside.is_file():
            facts = inside.stat()
            found[str(inside.relative_to(path))] = [facts.st_size, facts.st_mtime_ns]
    return _digest_json(found)


def _digest_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
