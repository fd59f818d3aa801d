"""Every benchmark's metrics stand whole in a comparison of 80 columns, whichever have a judge or groups."""

import json

import pytest

from benchmark_data import HAND_MADE
from eval_verb import run


@pytest.mark.parametrize("name", ["haloquest", "hallusionbench", "conflict", "naturalbench", "pope"])
def test_a_comparison_at_80_columns_has_whole_names_of_metrics(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    source = next((HAND_MADE / name).glob("answers.*"))
    replies = HAND_MADE / name / "replies.jsonl"
    judge = ["--judge_replies", replies] if replies.exists() else []
    for folder in ("a", "b"):
        options = ["--data_dir", HAND_MADE, "--answers", source, *judge, "--resamples", "100"]
        run(name, *options, "--out", tmp_path / folder)
    capsys.readouterr()
    run("compare", tmp_path / "a", tmp_path / "b", "--resamples", "100")
    shown = capsys.readouterr().out
    metrics = json.loads((tmp_path / "a" / "result.json").read_text())["metrics"]
    assert metrics
    for metric in metrics:
        short = metric.removeprefix(f"{name}/")
        assert any(line.split(" ")[0] == short for line in shown.splitlines()), short
    grouped = name in ("hallusionbench", "conflict", "naturalbench")
    assert f"Paired bootstrap by {'group' if grouped else 'image'}, 100 resamples" in shown
