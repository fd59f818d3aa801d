"""`mmdpo eval`, as the command line calls it."""

import json

import pytest

from benchmark_data import HAND_MADE
from eval_verb import run
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.files import UnusableFileError

AMBER = ["--data_dir", str(HAND_MADE), "--answers", str(HAND_MADE / "amber" / "answers.json"), "--linguistics", "table"]


def test_a_result_is_written_and_shown(tmp_path, capsys):
    pairs = HAND_MADE / "amber" / "similar_pairs.json"
    assert run("amber", *AMBER, "--out", tmp_path, "--similar_pairs", pairs) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]["amber/chair"]) >= {"value", "low", "high", "n", "exact"}
    chair = result["metrics"]["amber/chair"]
    # Two independent runs: √2 times the error of one; 1.96 to be told from 0, 0.84 to be so four times out of five.
    assert chair["visible_difference"] == pytest.approx(2.8016 * 2**0.5 * chair["standard_error"], rel=1e-4)
    assert result["made_by"] == {
        "data": "14 items, where 15,220 are published: another version, or a part",
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
    with pytest.raises(ValueError, match="--seed is -1"):
        run(*pope, "--seed", "-1")
    with pytest.raises(EvaluationError, match=r"holds none of coco_pope_random\.json"):
        run("pope", "--data_dir", tmp_path, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file of answers"):
        run("pope", "--data_dir", HAND_MADE, "--answers", tmp_path / "none", "--out", tmp_path)
    run(*pope)
    with pytest.raises(EvaluationError, match="holds a result of pope; choose another --out for amber"):
        run("amber", *AMBER, "--out", tmp_path, "--similarity", "exact")


def test_folders_that_cannot_be_meant_are_named_before_anything_is_done(tmp_path):
    pope = ["pope", "--answers", HAND_MADE / "pope" / "answers.jsonl"]
    with pytest.raises(EvaluationError, match=r"--data_dir .*none: no such folder"):
        run(*pope, "--data_dir", tmp_path / "none", "--out", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="file: is a file; --out names a folder"):
        run(*pope, "--data_dir", HAND_MADE, "--out", tmp_path / "file")
    with pytest.raises(ValueError, match="--limit goes with --model"):
        run(*pope, "--data_dir", HAND_MADE, "--out", tmp_path, "--limit", "1")


def test_answers_of_a_model_are_not_overwritten_by_others(tmp_path):
    given, out = HAND_MADE / "pope" / "answers.jsonl", tmp_path / "run"
    arguments = ["pope", "--data_dir", HAND_MADE, "--out", out]
    run(*arguments, "--answers", given)
    run(*arguments, "--answers", given)  # a result of answers from elsewhere may be made anew
    rows = [json.loads(line) | {"details": {}, "generation": {"model": "m"}} for line in (out / "answers.jsonl").open()]
    (out / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvaluationError, match=r"answers\.jsonl: holds the answers that a model gave here"):
        run(*arguments, "--answers", given)
    run(*arguments, "--answers", out)  # a run's folder stands for its answers
    assert json.loads((out / "result.json").read_text())["answers"]["generation"] == [{"model": "m"}]
    assert all("details" in json.loads(line) for line in (out / "answers.jsonl").open())


def test_a_failed_write_leaves_the_old_result(tmp_path, monkeypatch):
    """As on a full disk: nobody finds half a file."""
    run("pope", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(UnusableFileError, match=r"answers\.jsonl: cannot be written \(No space left on device\)"):
        run("pope", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--out", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_judge_that_cannot_be_is_refused_before_a_model_answers(tmp_path, monkeypatch):
    answered = []
    monkeypatch.setattr("mmdpo.evaluation.asking.answer_benchmark", lambda *given: answered.append(given))
    world = ["world", "--model", "world", "--out", tmp_path]
    with pytest.raises(ValueError, match="need the model's name too: --judge_model"):
        run(*world, "--judge_url", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="--judge_model: world has no judge"):
        run(*world, "--judge_model", "any")
    assert answered == []


def test_of_a_folder_the_answers_with_the_benchmarks_name_are_taken(tmp_path):
    answers = tmp_path / "answers"
    answers.mkdir()
    for name in ("pope", "mmhal"):
        file = next((HAND_MADE / name).glob("answers.*"))
        (answers / f"{name}{file.suffix}").write_bytes(file.read_bytes())
    assert run("pope", "--data_dir", HAND_MADE, "--answers", answers, "--out", tmp_path / "pope") == 0
    assert json.loads((tmp_path / "pope" / "result.json").read_text())["benchmark"] == "pope"


def test_a_missing_file_of_the_data_is_named_once_with_where_it_is_looked_for(tmp_path):
    with pytest.raises(
        EvaluationError, match=r"^\S+annotations\.json: this file of the benchmark's data is missing; --d"
    ):
        run("amber", "--data_dir", tmp_path, *AMBER[2:], "--out", tmp_path / "out")
