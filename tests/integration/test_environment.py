"""What is installed is decided in the repository: the locked versions, the ranges, and the page that speaks of both."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements.compatibility import ENVIRONMENTS, PAGE, read_ranges, read_versions, render

ROOT = Path(__file__).parents[2]


def find_needed() -> dict[str, str]:
    """Returns the installed version of everything that mmdpo, its development and its build need, directly or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    waiting = [(Requirement(line), "") for line in (*groups["dev"], *groups["build"], "mmdpo")]
    seen, found = set(), {}
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            # A build of PyTorch for CPUs is published under the version of the one that needs CUDA's libraries.
            assert name.startswith(("nvidia-", "cuda-", "triton")), f"{name} is needed and not installed"
            continue
        found[name] = installed.version
        for line in installed.requires or ():
            waiting += [(Requirement(line), extra) for extra in (*wanted.extras, "")]
    del found["mmdpo"]
    return found


def test_what_is_installed_is_what_is_locked():
    locked, installed = read_versions("locked"), find_needed()
    assert len(installed) > 50
    strangers = {name: version for name, version in installed.items() if name not in locked}
    assert not strangers, "run `make lock`: these are needed and not locked"
    others = {
        name: (version, locked[name])
        for name, version in installed.items()
        if Version(re.sub(r"\+.*", "", version)) != Version(locked[name])
    }
    assert not others, "run `make setup`: installed, and locked"


def test_a_range_begins_where_the_oldest_versions_are():
    oldest = read_versions("oldest")
    for name, wanted in read_ranges().items():
        (lowest,) = [part.version for part in wanted.specifier if part.operator == ">="]
        assert Version(oldest[name]) == Version(lowest), f"{name}: pyproject.toml promises {lowest}; run `make lock`"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_versions_of_every_list_are_in_the_ranges(environment):
    versions = read_versions(environment)
    for name, wanted in read_ranges().items():
        if name in versions or environment != "newest":
            assert wanted.specifier.contains(versions[name], prereleases=True), name


def test_the_page_says_what_was_run():
    assert PAGE.read_text() == render(), "run `python requirements/compatibility.py render`"


def test_nothing_of_setup_floats():
    makefile = (ROOT / "Makefile").read_text()
    setup = makefile.partition("setup: ")[2].partition("quickstart: ")[0]
    (call,) = re.findall(r"\$\(call install,(.+)\)", setup)
    assert call == "$(VENV),--constraint requirements/locked.txt,."
    commands = re.findall(r"pip install [^\n]+", setup)
    assert len(commands) == 4
    assert all("$(2)" in command for command in commands[:3])
    assert "--no-build-isolation" in commands[2]
    assert commands[3] == "pip install --quiet --constraint requirements/locked.txt --group app --group docs"
