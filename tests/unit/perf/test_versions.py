"""Versions are measured in turn, each in a process that has its own sources."""

import subprocess
from pathlib import Path

import pytest

from perf import versions

MEASURED = """
import sys
sys.path.append({root!r})
from perf.versions import take_turns
print("what a library says", flush=True)
counted = iter(range(9))
take_turns(lambda: {{"seconds": {seconds} + next(counted), "of": sys.argv[1:]}})
"""


@pytest.fixture
def before(tmp_path, monkeypatch):
    for name, seconds in (("before", 100), ("after", 200)):
        (tmp_path / name / "src").mkdir(parents=True)
        text = MEASURED.format(root=str(Path(versions.__file__).parents[1]), seconds=seconds)
        (tmp_path / name / "src" / "measured.py").write_text(text)
    monkeypatch.setattr(versions, "ROOT", tmp_path / "after")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path / "before", check=True)
    return tmp_path / "before"


def test_each_version_takes_its_turns_and_the_first_counts_not(before):
    found = versions.compare_versions("measured", before, ["--turns", "one shape"], 2)
    words = ["--turns", "one shape"]
    assert found["before"] == [{"seconds": 101, "of": words}, {"seconds": 102, "of": words}]
    assert found["after"] == [{"seconds": 201, "of": words}, {"seconds": 202, "of": words}]
    assert len(found["commit_before"]) >= 7


def test_a_version_that_ends_is_told(before):
    (before / "src" / "measured.py").write_text("raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="has ended"):
        versions.compare_versions("measured", before, [], 1)
