"""`from mmdpo import evaluate, diagnose`: the objects that the files hold, and the page about them."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest

import mmdpo
from benchmark_data import HAND_MADE, ROOT
from mmdpo import diagnose, evaluate
from mmdpo.benchmarks.reading import EvaluationError

PAGE = ROOT / "docs" / "python.md"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """What the page's blocks find: data and answers made by hand."""
    shutil.copytree(HAND_MADE / "pope", tmp_path / "benchmarks" / "pope")
    (tmp_path / "answers").mkdir()
    shutil.copy(HAND_MADE / "pope" / "answers.jsonl", tmp_path / "answers" / "pope.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs_as_written(workplace, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out.splitlines()
    assert "F1 0.8 [" in shown[0]
    assert shown[1] == str(2 / 3)
    assert sum(line.startswith("random/") for line in shown) == 4
    assert names["captions"].coverage["all"].answered == 20
    assert names["found"].kind == "model"
    assert names["data"].kind == "data"
    assert len(names["found"].examples) == names["found"].pairs == 24
    assert (workplace / "runs" / "world" / "result.json").is_file()


def test_what_is_returned_is_what_the_files_hold_and_nothing_is_printed(workplace, capfd):
    found = evaluate("pope", answers="answers/pope.jsonl", data_dir="benchmarks", out="run", resamples=100)
    result = json.loads((workplace / "run" / "result.json").read_text())
    assert json.loads(json.dumps({name: asdict(value) for name, value in found.metrics.items()})) == result["metrics"]
    assert found.made_by == result["made_by"]
    rows = [json.loads(line) for line in (workplace / "run" / "scores.jsonl").read_text().splitlines()]
    assert {row["id"]: row["counts"] for row in rows} == {name: dict(of.counts) for name, of in found.scores.items()}
    shown = repr(found).splitlines()
    assert shown[0].startswith("pope, ")
    assert len(shown) == 1 + len(found.metrics), "answers and items would fill a notebook"
    assert f"pope/popular/f1: {found.metrics['pope/popular/f1'].value} [" in repr(found)
    bare = evaluate("pope", answers="answers/pope.jsonl", data_dir="benchmarks", resamples=100)
    assert bare.metrics == found.metrics
    assert sorted(path.name for path in workplace.iterdir()) == ["answers", "benchmarks", "run"]
    assert capfd.readouterr().out == ""


def test_a_diagnosis_is_what_its_files_hold(workplace, capfd):
    found = diagnose(model="world", dataset="world", pairs=16, resamples=100, out="d")
    content = json.loads((workplace / "d" / "diagnosis.json").read_text())
    assert found.content == content
    assert {name: of["value"] for name, of in content["measures"].items()} == {
        name: of.value for name, of in found.measures.items()
    }
    assert (found.verdict, found.pairs) == (content["verdict"]["text"], 16)
    assert found.verdict in repr(found)
    assert len(repr(found).splitlines()) == 1 + len(found.measures)
    assert len(found.examples) == 16
    assert (workplace / "d" / "diagnosis.html").is_file()
    assert capfd.readouterr().out == ""


def test_mistakes_are_the_verbs_own_errors(workplace):
    with pytest.raises(TypeError, match="there is no option 'anwsers'; did you mean 'answers'"):
        evaluate("pope", anwsers="answers/pope.jsonl")
    with pytest.raises(TypeError, match="resamples should be int, is '100'"):
        evaluate("pope", answers="answers/pope.jsonl", resamples="100")
    with pytest.raises(TypeError, match=r"model should be str, is a list$"):
        evaluate("pope", model=["a whole model, printed"] * 100)
    with pytest.raises(TypeError, match="seed should be int, is True"):
        evaluate("pope", answers="answers/pope.jsonl", seed=True)
    with pytest.raises(ValueError, match="rule is one of official, peers; got 'peer'"):
        evaluate("pope", answers="answers/pope.jsonl", rule="peer")
    with pytest.raises(ValueError, match="one of the two"):
        evaluate("pope")
    with pytest.raises(ValueError, match="did you mean 'pope'"):
        evaluate("popes", answers="answers/pope.jsonl")
    (workplace / "none.jsonl").write_text('{"id": "random/1"}')
    with pytest.raises(EvaluationError, match="line 1: no answer"):
        evaluate("pope", answers="none.jsonl", data_dir="benchmarks")
    with pytest.raises(ValueError, match="nothing was scored: 400 of 400 items answered"):
        evaluate("world", model="world", answers_only=True)
    with pytest.raises(ValueError, match="give one of --dataset"):
        diagnose(model="world")
    with pytest.raises(TypeError, match="there is no option 'datasets'"):
        diagnose(model="world", datasets="world")


def test_the_names_are_found_by_type_checkers_and_loaded_late():
    code = "import sys, mmdpo; dir(mmdpo); assert not {'numpy', 'torch', 'rich', 'nltk'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys; from mmdpo import evaluate; assert 'torch' not in sys.modules and 'nltk' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert {"evaluate", "diagnose"} <= set(mmdpo.__all__)
