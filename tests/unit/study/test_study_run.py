"""Resuming a study: what is there is kept and found again."""

import io
import json
from dataclasses import asdict

import pytest
import yaml
from rich.console import Console

from mmdpo.study import study_run
from mmdpo.study.planning import plan_trials
from mmdpo.study.study_file import read_study
from mmdpo.study.variants import MEASURES

STUDY = {
    "name": 2026,
    "recipe": "world",
    "seeds": [0],
    "evaluation": {"scenes": 4},
    "variants": [{"name": "dpo", "objective": "dpo"}],
}


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return read_study(str(tmp_path / "study.yaml"))


@pytest.fixture
def console():
    return Console(file=io.StringIO())


def finish(trial):
    trial.folder.mkdir(parents=True)
    measures = {"world/f1": asdict(MEASURES["world/f1"])}
    content = {"digest": trial.digest, "metrics": {"world/f1": 90.0}, "measures": measures, "seconds": {}}
    (trial.folder / "trial.json").write_text(json.dumps(content))


def test_a_study_whose_name_is_a_number_is_resumed(study, tmp_path, console, monkeypatch):
    monkeypatch.setattr(study_run, "prepare_server", lambda: None)
    for trial in plan_trials(study, tmp_path / "out"):
        finish(trial)
    (tmp_path / "out" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert study_run.run_study(study, tmp_path / "out", 1, console)["missing"] == []


def test_a_finished_trial_is_kept_though_its_start_fails_this_time(study, tmp_path, console, monkeypatch):
    monkeypatch.setattr(study_run, "run_trials", lambda *given: None)
    start, dpo = trials = plan_trials(study, tmp_path / "out")
    finish(dpo)
    study_run._run_from_starts(trials, tmp_path / "out", 1, console, "trials")
    assert not start.is_finished()
    assert dpo.is_finished()
