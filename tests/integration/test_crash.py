"""Runs that are killed, stopped and queued again end as the run that nothing happened to."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

import forked
from mmdpo import MDPOTrainer
from mmdpo.cli import main
from mmdpo.commands import STOPPED
from mmdpo.world.pairs import make_pairs

CLOCK = ("_runtime", "_per_second", "_preparation_time")


def history_of(run):
    """Every log, without the summary of a process and what depends on the clock."""
    logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
    logs = [entry for entry in logs if "train_runtime" not in entry]
    return [{name: value for name, value in entry.items() if not name.endswith(CLOCK)} for entry in logs]


@pytest.mark.slow
def test_killed_ten_times_a_run_ends_with_the_weights_and_the_history_of_one_that_was_not(tmp_path):
    """Killed at random moments of training, and before random file operations of saving; LoRA, a fresh corruption for
    every epoch, accumulation, logs that span steps and epochs."""
    driver = forked.start_really(Path(__file__).with_name("crash_driver.py"), tmp_path, 20261)  # it forks and kills
    assert driver.wait() == 0, driver.said()[-3000:]
    report = json.loads((tmp_path / "attempts.json").read_text())
    assert len(report["attempts"]) == 10
    killed = [attempt for attempt in report["attempts"] if attempt["status"] == signal.SIGKILL]
    assert len(killed) >= 8, "the run was over before it could be killed"
    assert any(attempt["left"] for attempt in killed), "none was killed while it saved"
    newest = 0
    for attempt in report["attempts"]:
        assert attempt["fault"] is None
        assert max(attempt["whole"], default=0) >= newest, "a checkpoint was lost"
        newest = max(attempt["whole"], default=0)
    assert report["last"] == 0
    whole, resumed = tmp_path / "whole", tmp_path / "killed"
    assert (resumed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()
    assert history_of(resumed) == history_of(whole)
    assert {entry["step"] for entry in history_of(whole) if "loss" in entry} == {3, 6, 9, 12, 15}
    assert {path.name for path in resumed.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_processes_stop_at_the_same_step_though_one_alone_was_asked_and_go_on_as_if_nothing_was(tmp_path, engine):
    forked.run_ranks(Path(__file__).with_name("stop_driver.py"), tmp_path, engine)
    for rank in (0, 1):
        told = json.loads((tmp_path / f"told-{rank}.json").read_text())
        assert told["stopped"] == 3
        assert told["handler"], "the handler of before was not given back"
        assert told["resumed"] == told["whole"]
        assert len(told["whole"]) == 2
        assert "beta: 0.1 there, 0.2 now" in told["strange"]
    files = {path.name for path in (tmp_path / "run" / "checkpoint-5").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "since_last_log_0.pt", "since_last_log_1.pt"} <= files
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-5", "probe.json"}


def test_a_job_that_is_stopped_and_queued_again_runs_one_command(tmp_path, monkeypatch, capsys):
    """The command is the same for the first start, for going on, and for a run that is finished already."""
    recipe = tmp_path / "recipe.yaml"
    values = {
        "model_name_or_path": "world",
        "dataset_name": write_pairs(tmp_path),
        "use_peft": True,
        "lora_r": 2,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 3,
        "save_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
    }
    recipe.write_text(yaml.safe_dump(values))

    def command(folder):
        return ["train", "--config", str(recipe), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]

    assert main(command(tmp_path / "whole")) == 0
    step = MDPOTrainer.training_step

    def stopped_at_third(trainer, *args, **kwargs):
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(MDPOTrainer, "training_step", stopped_at_third)
    run = tmp_path / "run"
    assert main(command(run)) == STOPPED == 75
    assert f"stopped by SIGTERM after step 3, which {run / 'checkpoint-3'} holds" in capsys.readouterr().err
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 2
    assert "name one of its checkpoints: checkpoint-2, checkpoint-3" in capsys.readouterr().err
    monkeypatch.undo()
    for _ in range(2):
        assert main(command(run)) == 0
        ours, theirs = (folder / "adapter_model.safetensors" for folder in (run, tmp_path / "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
        assert history_of(run) == history_of(tmp_path / "whole")

    assert main([*command(run), "--beta", "0.3"]) == 2
    assert "beta: 0.1 there, 0.3 now" in capsys.readouterr().err
    assert (run / "adapter_model.safetensors").exists()


def write_pairs(folder):
    lines = []
    for number, row in enumerate(make_pairs(8, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return str(folder / "pairs.jsonl")
