"""`mmdpo eval`, as the command line calls it."""

import argparse
import json

import pytest

from benchmark_data import HAND_MADE
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation.command import add_eval_verb

AMBER = ["--data_dir", str(HAND_MADE), "--answers", str(HAND_MADE / "amber" / "answers.json"), "--linguistics", "table"]


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_eval_verb(parser.add_subparsers())
    options = parser.parse_args(["eval", *map(str, arguments)])
    return options.verb(options)


def test_a_result_is_written_and_shown(tmp_path, capsys):
    pairs = HAND_MADE / "amber" / "similar_pairs.json"
    assert run("amber", *AMBER, "--out", tmp_path, "--similar_pairs", pairs) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]["amber/chair"]) >= {"value", "low", "high", "n", "exact"}
    chair = result["metrics"]["amber/chair"]
    # Two independent runs: √2 times the error of one; 1.96 to be told from 0, 0.84 to be so four times out of five.
    assert chair["visible_difference"] == pytest.approx(2.8016 * 2**0.5 * chair["standard_error"], rel=1e-4)
    assert result["made_by"] == {
        "linguistics": "table and regular expression (no library)",
        "similarity": "pair table of by hand",
    }
    assert result["partial"] is False
    assert result["notes"]["empty_answer"]["first"] == [f"{HAND_MADE / 'amber' / 'answers.json'}, line 10"]
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert scores[0]["reason"]["flagged"] == ["cat"]
    shown = capsys.readouterr().out
    assert "amber/chair" in shown
    assert "12.5" in shown
    assert "note: 1 × nouns of the word list that are dropped" in shown


def test_what_decides_similarity_changes_the_number_and_is_named(tmp_path):
    assert run("amber", *AMBER, "--out", tmp_path, "--similarity", "exact") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["amber/chair"]["value"] == 25.0  # the wolf is a dog no more
    assert "not the official rule" in result["made_by"]["similarity"]


def test_a_judge_can_be_replayed(tmp_path):
    folder = HAND_MADE / "mmhal"
    arguments = ["mmhal", "--data_dir", folder, "--answers", folder / "answers.json", "--out", tmp_path]
    assert run(*arguments, "--judge_replies", folder / "replies.jsonl") == 0
    assert json.loads((tmp_path / "result.json").read_text())["made_by"]["judge"].startswith(
        "recorded replies of by hand"
    )
    with pytest.raises(EvaluationError, match=r"needs a judge.*--judge_replies"):
        run(*arguments)


def test_wrong_uses_are_named(tmp_path):
    pope = ["pope", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path]
    with pytest.raises(ValueError, match="pope has no judge"):
        run(*pope, "--judge_replies", "replies.jsonl")
    with pytest.raises(ValueError, match="--resamples is 1"):
        run(*pope, "--resamples", "1")
    with pytest.raises(EvaluationError, match=r"holds none of coco_pope_random\.json"):
        run("pope", "--data_dir", tmp_path, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file of answers"):
        run("pope", "--data_dir", HAND_MADE, "--answers", tmp_path / "none", "--out", tmp_path)
    run(*pope)
    with pytest.raises(EvaluationError, match="holds a result of pope; choose another folder for amber"):
        run("amber", *AMBER, "--out", tmp_path, "--similarity", "exact")


def test_a_failed_write_leaves_the_old_result(tmp_path, monkeypatch):
    """As on a full disk: nobody finds half a file."""
    run("pope", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmdpo.benchmarks.reading.os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        run("pope", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
