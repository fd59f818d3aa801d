"""What pairs with one picture cost is measured and told, and what loading costs against another version."""

import json

import pytest

from perf import pictures
from perf.loader_page import render_loader
from perf.pictures_page import render_pictures


@pytest.mark.slow
def test_the_measurement_runs_in_miniature_and_is_told(tmp_path, monkeypatch):
    cases = {("body", pictures.ONE_CROP): (pictures.QUESTIONS, pictures.DISTINCT)}
    monkeypatch.setattr(pictures, "CASES", cases)
    monkeypatch.setattr("sys.argv", ["pictures", "--tiny", "--repetitions", "1", "--output", str(tmp_path)])
    pictures.main()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["miniature"]
    questions, distinct = (case["sides"] for case in result["cases"])
    assert questions["apart"]["flops"] > 1.2 * questions["together"]["flops"]
    assert distinct["apart"]["flops"] == distinct["together"]["flops"]
    for name, seconds in (("apart", 3.0), ("together", 1.25)):
        questions[name]["time"]["median"] = seconds
    page = render_pictures([result])
    assert "| four questions about a picture | 3.00 | 1.25 | 2.40 |" in page
    assert "together |" not in page
    turns = {"before": [{"apart": 3.0}, {"apart": 4.0}, {"apart": 9.0}], "after": [{"together": 2.0}] * 3}
    result["cases"][0]["turns"] = {"commit_before": "c0ffee", **turns}
    page = render_pictures([result])
    assert "| apart at c0ffee / together |" in page
    assert [line.split("|")[-2].strip() for line in page.splitlines()[-2:]] == ["2.00", ""]
    assert "Nothing has been measured" in render_pictures([])


def test_versions_are_compared_turn_by_turn():
    def turn(cpu, wall):
        return {"cpu_seconds_per_batch": cpu, "batch_seconds": wall}

    turns = {
        "commit_before": "c0ffee",
        "batches": 40,
        "before": [turn(0.20, 0.11), turn(0.40, 0.30), turn(0.22, 0.12)],
        "after": [turn(0.10, 0.055), turn(0.20, 0.15), turn(0.121, 0.09)],
    }
    result = {
        "machine": "m", "date": "2026-01-01", "versions": {"transformers": "5"}, "size": (640, 480), "bytes": 1000,
        "batch": 8, "workers": 2, "step": 0.1, "mean_wait": 0.0, "wait": {"median": 0.0, "max": 0.0},
        "first_batch": 1.0, "cpu_seconds_per_batch": 0.1, "batch_seconds": 0.05, "examples": 10, "megabytes": [1.0],
        "read_over_per_second": 1e4, "load_before": 0.0, "load_after": 0.0,
    }  # fmt: skip
    page = " ".join(render_loader([result | {"turns": turns}]).split())
    assert "Against version c0ffee, 3 turns of 40 batches each, medians: 220 → 121 ms of CPU time (0.50 times)" in page
    assert "110 → 60 ms a batch on 2 workers with a core each; as measured 120 → 90 ms (0.50 times)" in page
    assert "Against" not in render_loader([result])
