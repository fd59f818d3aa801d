"""`mmdpo eval suite`: every benchmark through the code that runs it alone, beside the paper's Table 1."""

import csv
import json
import re
import shutil

import pytest

from benchmark_data import HAND_MADE
from eval_verb import parse, run
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation.paper_table import COLUMNS, PAPER
from mmdpo.evaluation.suite import choose_benchmarks, run_suite


@pytest.fixture
def answers(tmp_path):
    """Hand-made answers to all four, in both layouts, and replies of a judge."""
    folder = tmp_path / "answers"
    for name in ("amber", "mmhal", "pope"):
        (folder / name).mkdir(parents=True)
        source = next((HAND_MADE / name).glob("answers.*"))
        shutil.copy(source, folder / name / source.name)
    shutil.copy(HAND_MADE / "object_halbench" / "answers.jsonl", folder / "object_halbench.jsonl")
    return folder


@pytest.fixture
def replies(tmp_path):
    folder = tmp_path / "replies"
    folder.mkdir()
    for name in ("mmhal", "object_halbench"):
        shutil.copy(HAND_MADE / name / "replies.jsonl", folder / f"{name}.jsonl")
    return folder


def suite(answers, out, *more):
    pairs = HAND_MADE / "amber" / "similar_pairs.json"
    options = ["--linguistics", "table", "--similar_pairs", pairs, "--resamples", "100", *more]
    return run("suite", "--answers", answers, "--data_dir", HAND_MADE, "--out", out, *options)


def test_the_figures_are_those_of_each_benchmark_alone_beside_the_papers(answers, replies, tmp_path, capsys):
    assert suite(answers, tmp_path / "all", "--judge_replies", replies) == 0
    cells = json.loads((tmp_path / "all" / "suite.json").read_text())["cells"]
    expected = {
        name: json.loads((HAND_MADE / name / "expected.json").read_text())["metrics"]
        for name in ("amber", "mmhal", "object_halbench")
    }
    for column in COLUMNS:
        cell = cells[column.header]
        assert cell["metric"] == column.metrics[0]  # LLM mode, where there are replies
        assert cell["value"] == expected[column.metrics[0].partition("/")[0]][column.metrics[0]]
        assert cell["low"] <= cell["value"] <= cell["high"]
    rows = list(csv.DictReader((tmp_path / "all" / "suite.csv").open()))
    assert [row["row"] for row in rows] == [*PAPER["1"], "all"]
    assert rows[2]["MMHal score"] == "2.96"
    assert float(rows[-1]["MMHal score low"]) <= float(rows[-1]["MMHal score"])
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+) \((\d) of 4\)$", shown, re.M)[-1] == ("pope", "4")
    assert all(len(line) <= 80 for line in shown[shown.index("Bunny") :].splitlines()[:9])
    assert "LLaVA-v1.5-7B" in shown
    table = (tmp_path / "all" / "suite.md").read_text()
    assert "| Bunny-v1.0-3B + mDPO | 2.96 | 0.42 | 27.0 | 4.6 | 4.9 | 67.4 | 37.7 | 2.4 |" in table
    for caveat in (
        "Object HalBench in LLM mode",
        "rated by recorded replies of by hand",
        "similar words by pair table",
    ):
        assert caveat in table
        assert caveat in shown
    assert "questions tell two runs apart" in table


def test_one_that_fails_is_missing_with_its_reason_and_the_others_go_on(answers, tmp_path, capsys):
    shutil.rmtree(answers / "pope")
    assert suite(answers, tmp_path / "some") == 1
    content = json.loads((tmp_path / "some" / "suite.json").read_text())
    assert content["missing"].keys() == {"mmhal", "pope"}
    assert "needs a judge" in content["missing"]["mmhal"]
    assert (
        "holds none of pope.jsonl, pope.json, pope/answers.jsonl, pope/answers.json, and no folder pope"
        in content["missing"]["pope"]
    )
    assert content["cells"]["MMHal score ↑"] is None
    assert content["cells"]["ObjHal CHAIRs ↓"]["metric"] == "object_halbench/word/chair_s"
    assert any("word mode, without a language model" in note for note in content["notes"])
    last = (tmp_path / "some" / "suite.md").read_text().splitlines()[8]
    assert last.startswith("| some | – | – | 75.0 [")
    assert "missing: pope: " in capsys.readouterr().out


def test_every_benchmark_may_have_its_own_pictures(tmp_path):
    (tmp_path / "pope").mkdir()
    found = {}

    def note(name, options):
        found[name] = options.asking.image_dir

    given = ["--image_dir", tmp_path, "--benchmarks", "pope", "amber", "world"]
    run_suite(parse("suite", "--model", "m", "--out", tmp_path / "out", "--answers_only", *given), note)
    assert found == {"pope": tmp_path / "pope", "amber": tmp_path, "world": None}


def test_what_was_answered_and_not_scored_is_missing(tmp_path):
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "result.json").write_text("{}")  # of an earlier time
    options = parse("suite", "--model", "m", "--out", tmp_path, "--benchmarks", "pope")
    assert run_suite(options, lambda name, part: None).missing.keys() == {"pope"}
    assert "not scored" in json.loads((tmp_path / "suite.json").read_text())["missing"]["pope"]


def test_a_stale_result_is_not_taken_for_a_new_one(answers, replies, tmp_path):
    assert suite(answers, tmp_path / "run", "--judge_replies", replies) == 0
    shutil.rmtree(answers / "amber")
    assert suite(answers, tmp_path / "run", "--judge_replies", replies) == 1
    content = json.loads((tmp_path / "run" / "suite.json").read_text())
    assert content["cells"]["AMBER CHAIR ↓"] is None
    assert "amber" not in content["results"]


def test_an_error_of_the_machine_is_a_reason_too(answers, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mmdpo.evaluation.benchmark_run.evaluate_answers", fail)
    assert suite(answers, tmp_path / "run", "--benchmarks", "pope") == 1
    content = json.loads((tmp_path / "run" / "suite.json").read_text())
    assert content["missing"] == {"pope": "RuntimeError: out of memory"}


def test_the_world_is_run_where_it_is_meant(tmp_path):
    def choose(model, *more):
        return choose_benchmarks(parse("suite", "--out", "o", "--model", model, *more))[0]

    assert choose("world") == ("world",)
    assert choose("some/model", "--data_dir", tmp_path) == ("amber", "mmhal", "object_halbench", "pope")
    assert choose("some/model", "--benchmarks", "world", "pope") == ("world", "pope")


def test_wrong_uses_are_named(answers, tmp_path):
    with pytest.raises(ValueError, match=r"there is no amebr; did you mean 'amber'\? There are amber, chair"):
        suite(answers, tmp_path, "--benchmarks", "amebr")
    with pytest.raises(EvaluationError, match="a suite takes a folder"):
        suite(answers / "object_halbench.jsonl", tmp_path)


def test_all_that_have_their_data_answers_and_judge_are_run_and_the_others_are_named(answers, tmp_path, capsys):
    for name in ("dash_b", "hallusionbench", "hallusionbench_yes_no", "mmvp", "naturalbench", "repope", "chair"):
        source = next((HAND_MADE / name).glob("answers.*"))
        shutil.copy(source, answers / f"{name}{source.suffix}")
    assert suite(answers, tmp_path / "all") == 1  # MMHal-Bench always needs a judge
    content = json.loads((tmp_path / "all" / "suite.json").read_text())
    assert content["missing"].keys() == {"mmhal"}
    assert content["left_out"]["hallusionbench"] == "it needs a judge"
    assert content["left_out"]["haloquest"].startswith("no answers in ")
    expected = json.loads((HAND_MADE / "naturalbench" / "expected.json").read_text())["metrics"]
    found = content["others"]["naturalbench/group_accuracy"]
    assert found["value"] == expected["naturalbench/group_accuracy"]
    assert found["low"] <= found["value"] <= found["high"]
    assert {name.partition("/")[0] for name in content["others"]} == {
        "chair",
        "dash_b",
        "hallusionbench_yes_no",
        "mmvp",
        "naturalbench",
        "pope",
        "repope",
    }
    assert "pope/repope/macro/accuracy" in content["others"]
    table = (tmp_path / "all" / "suite.md").read_text()
    assert "| naturalbench/group_accuracy ↑ | 0.333 [0.000 … 1.000] | 3 | share |" in table
    assert "- left out: hallusionbench: it needs a judge" in table
    shown = capsys.readouterr().out
    lines = shown[shown.index("not in the paper") :].splitlines()[:20]
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("hallusionbench_yes_no/aacc ↑") for line in lines)
