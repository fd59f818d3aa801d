"""`mmdpo study` at a fraction of its size: what it leaves, what it repeats, and what a trial that dies does."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

import forked
from mmdpo.benchmarks.result_folder import read_table
from mmdpo.benchmarks.tasks.world import BENCHMARK
from mmdpo.cli import main
from mmdpo.shipped import STUDIES
from mmdpo.study.study_file import StudyEvaluation, Variant
from mmdpo.study.study_run import Step, run_trials
from mmdpo.study.trial import Trial

STARTS_WITHIN = 600
"""Seconds that a study may take to its first trial on a busy machine."""
TINY = {
    "name": "tiny",
    "recipe": "world",
    "options": {"pairs": 32, "num_train_epochs": 1, "fraction": 0.5, "per_device_train_batch_size": 8},
    "seeds": [0, 1],
    "evaluation": {"scenes": 8, "pairs": 8},
    "variants": [
        {"name": "dpo", "objective": "dpo"},
        {"name": "mdpo", "objective": "mdpo"},
        {"name": "broken", "objective": "dpo", "learning_rate": 1e20, "num_train_epochs": 3},
    ],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two variants and one that cannot finish, run once, two trials at a time."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    status = main(["study", "--config", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--jobs", "2"])
    return folder, folder / "out", status


def test_every_trial_leaves_its_files_and_the_table_says_what_failed(study):
    _, out, status = study
    assert status == 1, "something is missing"
    results = json.loads((out / "results.json").read_text())
    assert list(results["values"]) == ["start", "dpo", "mdpo", "broken"]
    for name in ("dpo", "mdpo"):
        trial = out / "trials" / name / "seed-1"
        stored = json.loads((trial / "trial.json").read_text())
        assert stored["pairs"] == 16, "half of 32"
        assert json.loads((trial / "trainer_state.json").read_text())["log_history"]
        assert results["values"][name]["world/cover"]["by_seed"]["1"] == stored["metrics"]["world/cover"]
        assert yaml.safe_load((trial / "recipe.yaml").read_text())["objective"] == name
    assert {entry["variant"] for entry in results["missing"]} == {"broken"}
    assert all("not finite" in entry["error"] for entry in results["missing"])
    page = (out / "table.md").read_text()
    assert "| broken | – |" in page
    assert "missing: broken, seed 0" in page
    assert (out / "table.csv").read_text().startswith("variant,measure,unit")


def test_counts_of_every_scene_add_up_to_the_measures(study):
    _, out, _ = study
    trial = out / "trials" / "mdpo" / "seed-0"
    sums = read_table(trial / "world").sums()
    stored = json.loads((trial / "trial.json").read_text())["metrics"]
    for metric in BENCHMARK.metrics:
        assert float(metric.compute(sums)[0]) == pytest.approx(stored[metric.name])


def test_a_second_run_repeats_only_what_is_missing_and_gives_the_same_numbers(study, tmp_path):
    folder, first, _ = study
    out = tmp_path / "out"
    shutil.copytree(first, out)
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    config["variants"] = config["variants"][:2]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    before = json.loads((out / "trials/mdpo/seed-1/trial.json").read_text())["metrics"]
    shutil.rmtree(out / "trials/mdpo/seed-1")
    kept = (out / "trials/dpo/seed-1/trial.json").stat().st_mtime_ns
    assert main(["study", "--config", str(tmp_path / "tiny.yaml"), "--out", str(out)]) == 0
    after = json.loads((out / "trials/mdpo/seed-1/trial.json").read_text())["metrics"]
    assert {k: v for k, v in after.items() if k != "time/train"} == {
        k: v for k, v in before.items() if k != "time/train"
    }, "one trial at a time gives what two at a time gave"
    assert (out / "trials/dpo/seed-1/trial.json").stat().st_mtime_ns == kept


def test_folders_of_something_else_are_refused(study, tmp_path, capsys):
    folder, out, _ = study
    other = {**TINY, "name": "other"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    assert main(["study", "--config", str(tmp_path / "other.yaml"), "--out", str(out)]) == 2
    assert "holds another study" in capsys.readouterr().err
    assert main(["study", "--config", str(folder / "tiny.yaml"), "--out", str(folder)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_a_trial_whose_process_is_killed_is_recorded_and_the_others_go_on(tmp_path):
    variant = Variant("start", "", {"model_name_or_path": "world", "dataset_name": "world"})
    trials = [
        Trial(variant, seed, StudyEvaluation(scenes=2), tmp_path / f"seed-{seed}", f"digest {seed}", None)
        for seed in (0, 1)
    ]
    said = []

    def watch(trial, message):
        if isinstance(message, Step) and trial.seed == 0:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)
        elif not isinstance(message, Step):
            said.append((trial.seed, message))

    run_trials(trials, 1, watch)
    assert said[0][0] == 0
    assert "killed by signal 9" in said[0][1]
    assert said[1] == (1, None)
    assert json.loads((tmp_path / "seed-0/failure.json").read_text())["error"] == said[0][1]


@pytest.mark.parametrize(
    ("signal_sent", "start"),
    [(signal.SIGTERM, forked.start), (signal.SIGKILL, forked.start_really)],
    ids=["asked", "killed"],
)
def test_a_trial_does_not_outlive_its_study(tmp_path, signal_sent, start):
    endless = {**TINY, "options": {"num_train_epochs": 200}, "seeds": [0], "variants": TINY["variants"][:1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(endless))
    study = start("study", "--config", "study.yaml", "--out", "out", cwd=tmp_path)
    log = tmp_path / "out/trials/dpo/.seed-0.partial/log.txt"
    try:
        wait_until(lambda: users_of(log), seconds=STARTS_WITHIN)
    finally:
        study.send_signal(signal_sent)
        study.wait()
    wait_until(lambda: not users_of(log), seconds=20)
    assert log.exists(), "by now the place may be that of the same study, begun again"


def test_a_study_that_was_killed_goes_on_with_what_is_missing_and_keeps_finished_trials(tmp_path, capsys):
    config = {**TINY, "variants": TINY["variants"][:2], "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    command = ["study", "--config", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    study = forked.start(*command)
    first = tmp_path / "out/trials/start/seed-0/trial.json"
    try:
        wait_until(first.is_file, seconds=STARTS_WITHIN)
    finally:
        study.send_signal(signal.SIGKILL)
        study.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("trials/*/*/trial.json")}
    assert 1 <= len(kept) < 3
    assert main(command) == 0
    assert f"{len(kept)} of 3 trials are finished already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "out/results.json").read_text())["missing"] == []


def test_a_place_where_nothing_can_be_written_is_said_in_a_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["study", "ablation", "--out", str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be made" in said


def test_studies_are_listed_with_what_they_ask_and_a_misspelt_one_names_the_nearest(capsys):
    assert main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STUDIES.names())
    assert "comparative    Does DPO learn from the images?" in lines
    assert main(["study", "comparitive"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'comparative'" in said
    assert "--list" in said


def wait_until(is_true, seconds):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def users_of(path):
    """Returns the processes that have a file open; Linux alone says so."""
    users = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == path:
                users.add(link.parts[2])
    return users
