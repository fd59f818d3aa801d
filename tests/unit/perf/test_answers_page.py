"""What several answers to a prompt cost is measured and told, in miniature."""

import json

import pytest

from perf import answers
from perf.answers_page import render_answers


@pytest.mark.slow
def test_the_measurement_runs_in_miniature_and_is_told(tmp_path, monkeypatch):
    for size in ("PROMPTS", "ANSWERS"):
        monkeypatch.setattr(answers, size, 2)
    monkeypatch.setattr("sys.argv", ["answers", "--tiny", "--repetitions", "1", "--output", str(tmp_path)])
    answers.main()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["miniature"]
    assert list(result["sides"]) == [answers.ONE, answers.EACH, answers.ONCE]
    for name, seconds in zip(result["sides"], (2.0, 14.0, 5.5), strict=True):
        result["sides"][name]["cpu"]["median"] = seconds
    page = render_answers([result])
    assert f"| {answers.EACH} | 14.0 |" in page
    assert "2.75, **missed**" in page
    assert "**missed**" not in render_answers([result | {"target": 3.0}])
    assert "Nothing has been measured" in render_answers([])
