"""Results files: what was measured, on what, with which versions."""

from __future__ import annotations

import json
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def name_machine(device: str) -> str:
    """Returns the kind of processor or GPU, in letters that suit a file name; never the name of a host."""
    if device != "cpu":
        return _sanitise(torch.cuda.get_device_name())
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return _sanitise(f"{models[0]} {len(models)} cores" if models else platform.machine())


def _sanitise(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|@.*?ghz", "", name.lower())).strip("-")


def describe_run(device: str) -> dict[str, Any]:
    """Returns what every results file begins with."""
    return {
        "machine": name_machine(device),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in ("torch", "transformers", "peft", "trl", "mmdpo")},
            "mmdpo_commit": _git("rev-parse", "--short", "HEAD"),
            "mmdpo_differs_from_commit": bool(_git("status", "--porcelain", "--", "src")),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def write_result(result: dict[str, Any], folder: Path, prefix: str = "") -> Path:
    """Writes a result under its machine and date, whole or not at all; an earlier one of that day is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{result['machine']}-{result['date']}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
    return path


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median, extremes and quartiles."""
    several = seconds if len(seconds) > 1 else [*seconds, *seconds]
    lower, _, upper = statistics.quantiles(several, n=4, method="inclusive")
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "lower_quartile": lower,
        "upper_quartile": upper,
        "max": max(seconds),
        "repetitions": len(seconds),
    }
