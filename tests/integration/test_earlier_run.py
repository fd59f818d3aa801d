"""A run folder that version 0.1 wrote before the redesign: read, scored, merged and reported as one of today.

`tests/golden/run_folder/run` is `mmdpo train --model_name_or_path ./base --dataset_name world --output_dir run
--use_peft true --lora_r 1 --lora_target_modules q_proj v_proj --max_steps 4 --save_steps 2
--per_device_train_batch_size 4 --logging_steps 1 --report_to none --seed 3 --use_cpu true --sample_answers_steps 2
--sample_answers 2`, without its last checkpoint and its pictures, and `mmdpo eval world --model run --out run/world
--limit 6 --resamples 200`; `base` is the checkpoint of the embedded world.
"""

import json
import shutil
from pathlib import Path

import pytest

from mmdpo.cli import main
from mmdpo.world import SMALL

EARLIER = Path(__file__).parents[1] / "golden" / "run_folder"


@pytest.fixture
def run(tmp_path, monkeypatch):
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    (tmp_path / "base").symlink_to(SMALL.checkpoint)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_it_is_refused_where_its_start_and_its_rows_are_others_now_and_stays_as_it_is(run, capsys):
    # The embedded world was redrawn after this run, so that there is no resuming it: weights and rows are others.
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    command = ["train", "--config", "run/recipe.yaml", "--precompute_ref_log_probs", "false"]
    assert main([*command, "--resume_from_checkpoint", "run/checkpoint-2"]) == 2
    said = capsys.readouterr().err
    assert "run/checkpoint-2 belongs to another run" in said
    assert "weights of the model" in said
    assert "contents of the rows" in said
    assert {path: path.read_bytes() for path in before} == before


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
