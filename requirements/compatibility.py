"""Writes docs/compatibility.md: which versions run, from pyproject.toml and the version lists of this folder.

    python requirements/compatibility.py record locked|oldest|newest "what was run and passed"
    python requirements/compatibility.py render

`record` notes the day, this Python, and the installed versions of what mmdpo needs. `make oldest` and `make newest` end
with it, when everything has passed; for the locked versions it is called by hand.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "compatibility.md"
RUNS = HERE / "runs.json"
ENVIRONMENTS = ("oldest", "locked", "newest")


def read_ranges() -> dict[str, Requirement]:
    """Returns what pyproject.toml asks for, by name: what mmdpo needs, then what its extras for this machine need."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in ("eval", "diagnose", "openai") for line in extras[name])]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def read_versions(environment: str) -> dict[str, str]:
    """Returns the version of every package in a list, as it holds for this Python."""
    lines = (HERE / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    fitting = [each for each in found if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in fitting}


def record(environment: str, passed: str) -> None:
    """Adds what has passed in this environment, on this day and Python, in place of what was known of them."""
    runs = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.is_file() else []
    python = ".".join(platform.python_version_tuple()[:2])
    runs = [run for run in runs if (run["environment"], run["python"]) != (environment, python)]
    versions = {name: re.sub(r"\+.*", "", version(name)) for name in read_ranges()}
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    runs.append({"environment": environment, "python": python, "date": day, "passed": passed, "versions": versions})
    runs.sort(key=lambda run: (ENVIRONMENTS.index(run["environment"]), run["python"]))
    RUNS.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(), encoding="utf-8")


def render() -> str:
    """Returns the page."""
    runs: list[dict[str, Any]] = json.loads(RUNS.read_text(encoding="utf-8"))
    latest = {run["environment"]: run for run in runs if run["python"] == "3.11" or run["environment"] != "locked"}
    lines = [
        "# Compatibility",
        "",
        "What has been run with which versions. `make setup` installs the locked versions, direct and indirect, from",
        "`requirements/locked.txt`, which `make lock` writes anew; `pip install mmdpo` takes what the ranges allow.",
        "`make oldest` and `make newest` try the ends of the ranges in environments of their own, and write this page.",
        "",
        "| versions | Python | day | passed |",
        "|---|---|---|---|",
        *(f"| {run['environment']} | {run['python']} | {run['date']} | {run['passed']} |" for run in runs),
        "",
        f"| package | range | {' | '.join(name for name in ENVIRONMENTS if name in latest)} |",
        f"|---|---|{'---|' * len(latest)}",
    ]
    for name, wanted in read_ranges().items():
        ran = " | ".join(
            latest[environment]["versions"].get(name, "not yet")
            for environment in ENVIRONMENTS
            if environment in latest
        )
        lines.append(f"| {wanted.name} | {str(wanted.specifier).replace(',', ', ')} | {ran} |")
    lines += [
        "",
        "`requirements/locked.txt` has one version of NumPy, SciPy and a few others for Python 3.11 and a newer one",
        "for 3.12 and 3.13. PyTorch is the version that `constraints.txt` names. DeepSpeed and bitsandbytes are",
        "optional, and `make test-rest` installs their locked versions and runs the tests that need them; `vllm`,",
        "`wandb` and `trackio` are optional too, and in no list.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", name, passed] if name in ENVIRONMENTS:
            record(name, passed)
        case ["render"]:
            PAGE.write_text(render(), encoding="utf-8")
        case _:
            sys.exit(__doc__)
