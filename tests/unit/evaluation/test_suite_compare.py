"""`mmdpo eval suite compare`: several suites as rows of one of the paper's tables."""

import csv
import json

import pytest

from eval_verb import run
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation.paper_table import PAPER

FIGURES = {
    "amber": {"amber/chair": 7.0, "amber/cover": 60.0, "amber/hal": 30.0, "amber/cog": 3.0},
    "mmhal": {"mmhal/score": 2.5, "mmhal/hallucination_rate": 0.5},
    "object_halbench": {"object_halbench/word/chair_s": 40.0, "object_halbench/word/chair_i": 8.0},
}


def write_suite(folder, change=0.0, missing=(), judge="J", found=FIGURES):
    """A suite's folder as `mmdpo eval suite` writes it; `change` is added to every figure."""
    results = {}
    for name in found.keys() - set(missing):
        metrics = {
            metric: {"value": value + change, "low": value + change - 0.25, "high": value + change + 0.25, "n": 9}
            for metric, value in found[name].items()
        }
        made_by = {"judge": judge} if name == "mmhal" else {"linguistics": "a table"}
        content = {"benchmark": name, "metrics": metrics, "made_by": made_by, "partial": False}
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text(json.dumps(content))
        results[name] = f"{name}/result.json"
    suite = {"results": results, "missing": dict.fromkeys(missing, "it broke off")}
    (folder / "suite.json").write_text(json.dumps(suite))
    return folder


def test_three_suites_are_three_rows_beside_the_papers(tmp_path, capsys):
    folders = [write_suite(tmp_path / name, change) for name, change in (("base", 0.0), ("dpo", 0.125), ("mdpo", 0.5))]
    assert run("suite", "compare", *folders, "--markdown", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:11]] == [
        f"| {row}" for row in (*PAPER["1"], "base", "dpo", "mdpo")
    ]
    assert lines[4] == "| Bunny-v1.0-3B + mDPO | 2.96 | 0.42 | 27.0 | 4.6 | 4.9 | 67.4 | 37.7 | 2.4 |"
    assert lines[10].startswith("| mdpo | 3.00 [2.75 … 3.25] | 1.00 [0.75 … 1.25] | 40.5 [40.2 … 40.8] |")
    # What is true of all rows is said once.
    assert shown.count("rated by J") == 1
    assert "not the same" not in shown
    rows = list(csv.DictReader((tmp_path / "out" / "suites.csv").open()))
    assert (rows[-2]["row"], rows[-2]["AMBER Cover low"]) == ("dpo", "59.875")
    written = json.loads((tmp_path / "out" / "suites.json").read_text())
    assert written["cells"]["base"]["AMBER Hal ↓"]["value"] == 30.0
    assert (tmp_path / "out" / "suites.md").read_text().startswith("|  | MMHal score ↑ |")


def test_that_the_data_is_not_what_was_published_is_said_beside_the_paper(tmp_path, capsys):
    for name in ("base", "mdpo"):
        path = write_suite(tmp_path / name) / "amber" / "result.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "made_by": {**content["made_by"], "data": "9 items, where 15,220 are"}}))
    run("suite", "compare", tmp_path / "base", tmp_path / "mdpo", "--out", tmp_path / "out")
    assert " ".join(capsys.readouterr().out.split()).count("amber stands on 9 items, where 15,220 are") == 1


def test_in_a_terminal_of_80_columns_every_row_can_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folders = [write_suite(tmp_path / name / "eval") for name in ("base", "mdpo")]
    assert run("suite", "compare", *folders, "--labels", "base", "mDPO") == 0
    shown = capsys.readouterr().out
    table = shown[: shown.index("The paper's rows")].splitlines()
    assert all(len(line) <= 80 for line in table)
    assert [line.split()[0] for line in table if line.startswith(("base", "mDPO"))] == ["base", "mDPO"]


def test_the_ablations_have_the_columns_and_rows_of_their_table(tmp_path, capsys):
    folder = write_suite(tmp_path / "mine")
    for number, first in (("2", "paper: mDPO"), ("3", "paper: another image"), ("4", "paper: y_w")):
        assert run("suite", "compare", folder, "--table", number, "--markdown") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "|  | MMHal score ↑ | MMHal HalRate ↓ | ObjHal CHAIRs ↓ | ObjHal CHAIRi ↓ |"
        assert lines[2].startswith(f"| {first} |")
        assert [line for line in lines if line.startswith("| mine | 2.50 [")]
    with pytest.raises(ValueError, match=r"choose from '?1'?"):
        run("suite", "compare", folder, "--table", "6")


def test_what_is_missing_or_differs_is_said(tmp_path, capsys):
    base = write_suite(tmp_path / "base")
    other = write_suite(tmp_path / "other", missing=["amber"], judge="K")
    # A result of an earlier time, which the suite did not take over.
    (other / "amber").mkdir()
    (other / "amber" / "result.json").write_text((base / "amber" / "result.json").read_text())
    assert run("suite", "compare", base, other) == 1
    shown = capsys.readouterr().out
    assert "missing: other: amber: it broke off" in shown
    assert "missing: other: AMBER Cog ↓" in shown
    assert "mmhal: not the same judge: J in base, K in other" in shown
    assert "base: MMHal-Bench was rated by J" in shown
    (base / "mmhal" / "result.json").write_text("{}")
    assert run("suite", "compare", base) == 1
    assert "mmhal/result.json cannot be read" in capsys.readouterr().out


def test_a_figure_that_the_rule_does_not_define_is_not_missing(tmp_path, capsys):
    folder = write_suite(tmp_path / "mine")
    path = folder / "object_halbench" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["object_halbench/word/chair_i"]["value"] = None
    path.write_text(json.dumps(result))
    assert run("suite", "compare", folder) == 0
    assert "mine: ObjHal CHAIRi ↓ has no value: 0 / 0 by its rule" in capsys.readouterr().out


def test_the_two_modes_of_object_halbench_never_stand_in_one_row(tmp_path, capsys):
    """LLM mode found no object at all, so that its CHAIRi is 0 / 0: word mode's is another number."""
    folder = write_suite(tmp_path / "mine")
    path = folder / "object_halbench" / "result.json"
    result = json.loads(path.read_text())
    ends = {"low": None, "high": None, "n": 9}
    result["metrics"] |= {
        f"object_halbench/llm/{of}": {"value": v, **ends} for of, v in {"chair_s": 0.0, "chair_i": None}.items()
    }
    path.write_text(json.dumps(result))
    assert run("suite", "compare", folder, "--table", "2", "--markdown") == 0
    shown = capsys.readouterr().out
    assert next(line for line in shown.splitlines() if line.startswith("| mine |")).endswith("| 0.0 | – |")
    assert "ObjHal CHAIRi ↓ has no value: 0 / 0 by its rule" in shown


def test_two_results_of_one_benchmark_are_not_one_row(tmp_path):
    folder = write_suite(tmp_path / "mine", found={"amber": FIGURES["amber"]})
    (folder / "suite.json").unlink()
    (folder / "amber").rename(folder / "with_suffix")
    write_suite(folder, 1.0, found={"amber": FIGURES["amber"]})
    (folder / "suite.json").unlink()
    with pytest.raises(EvaluationError, match=r"mine: holds two results of amber or more, one of them in with_suffix"):
        run("suite", "compare", folder)


def test_wrong_uses_are_named(tmp_path):
    folder = write_suite(tmp_path / "mine")
    with pytest.raises(EvaluationError, match="give 1 different names"):
        run("suite", "compare", folder, "--labels", "a", "b")
    with pytest.raises(EvaluationError, match="no folder of results"):
        run("suite", "compare", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"holds no result\.json"):
        run("suite", "compare", tmp_path / "empty")
    only_pope = write_suite(tmp_path / "pope", found={"pope": {"pope/popular/f1": 0.8}})
    with pytest.raises(EvaluationError, match="no run has a figure of the paper's Table 1"):
        run("suite", "compare", only_pope)


def test_the_help_of_a_suite_names_it(capsys):
    with pytest.raises(SystemExit):
        run("suite", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "`mmdpo eval suite compare`: Print several suites as rows of one table." in shown
