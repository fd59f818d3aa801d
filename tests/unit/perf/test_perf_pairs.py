"""What pairs from many verdicts cost is measured and told, in miniature."""

import json

import pytest

from perf import pairs
from perf.pairs_page import render_pairs


@pytest.mark.slow
def test_the_measurement_runs_in_miniature_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pairs", "--verdicts", "450", "--repetitions", "1", "--output", str(tmp_path)])
    pairs.main()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["miniature"]
    assert (result["prompts"], result["verdicts"]) == (50, 450)
    assert 40 <= result["pairs"]["train"] <= 50
    assert 0.1 < result["build"]["gib"]["median"] < 4
    told = result | {"build": {name: {"median": 1.0, "repetitions": 1} for name in ("wall", "cpu", "gib")}}
    assert "1 s, 1 s of CPU, 1.0 GiB" in " ".join(render_pairs([told]).split())
    assert "**missed**" not in render_pairs([told])
    assert "**missed**" in render_pairs([told | {"target": {"seconds": 0.5, "gib": 2.0}}])
    two = told | {"processes": 2, "target": {"seconds": 60, "gib": 1.5}}
    assert "1.0 GiB at most in each of two processes" in " ".join(render_pairs([two]).split())
    assert "**missed**" in render_pairs([two])
    assert "Nothing has been measured" in render_pairs([])
