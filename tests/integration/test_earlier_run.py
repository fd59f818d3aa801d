"""A run folder that version 0.1 wrote before the redesign: resumed, scored, merged and reported as one of today.

All of `tests/golden/run_folder` was made by the code at 5cf9866: `base`, an untrained captioner of 32 units; `rows`,
sixteen pairs of that time's embedded world; `run`, by `mmdpo train --model_name_or_path ./base --dataset_name
rows/pairs.jsonl --image_root rows --output_dir run --use_peft true --lora_r 1 --lora_target_modules q_proj v_proj
--max_steps 4 --save_steps 2 --per_device_train_batch_size 4 --logging_steps 1 --report_to none --seed 3 --use_cpu true
--sample_answers_steps 2 --sample_answers 2 --learning_rate 1e-2`, without its last checkpoint and its pictures; and
`run/world`, answers of that time's captioner to six scenes, scored by `mmdpo eval world --limit 6 --resamples 200`.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mmdpo.cli import main

EARLIER = Path(__file__).parents[1] / "golden" / "run_folder"


@pytest.fixture
def run(tmp_path, monkeypatch):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_it_is_resumed_and_ends_as_it_ended_then(run):
    command = ["train", "--config", "run/recipe.yaml"]
    assert main([*command, "--resume_from_checkpoint", "run/checkpoint-2"]) == 0
    then, now = load_file(EARLIER / "run" / "adapter_model.safetensors"), load_file(run / "adapter_model.safetensors")
    assert then.keys() == now.keys()
    for name, value in then.items():
        # A step moves a weight by up to 1e-2, and LoRA's products are summed in another order since.
        assert now[name].numpy() == pytest.approx(value.numpy(), abs=1e-6), name
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (EARLIER / "run", run)]
    for earlier, later in zip(*logs, strict=True):
        assert earlier.keys() == later.keys()
        for key in earlier.keys() & {"loss", "rewards/margins", "rewards/image_margins", "grad_norm", "train_loss"}:
            assert later[key] == pytest.approx(earlier[key], rel=1e-4, abs=1e-6), key


def test_its_answers_are_scored_as_then(run):
    command = ["eval", "world", "--answers", "run/world/answers.jsonl", "--partial", "--resamples", "200"]
    assert main([*command, "--out", "again"]) == 0
    then, now = (json.loads(Path(name, "result.json").read_text()) for name in ("run/world", "again"))
    assert now["metrics"] == then["metrics"]


def test_it_is_merged_and_reported(run):
    assert main(["merge", "run", "merged"]) == 0
    assert (Path("merged") / "model.safetensors").is_file()
    assert main(["report", "run", "--out", "page.html"]) == 0
    assert "sample answers" in Path("page.html").read_text().lower()
