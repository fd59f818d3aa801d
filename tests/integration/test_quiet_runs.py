"""What a normal run prints: our own lines, and none of the libraries below; in a file no bar and no escape code."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from small_trainer import write_pairs

OURS = (
    r"(shared|separate) rows score as plain forwards do, within \S+ nats a token",
    r"\d+ of \d+ reference log-probabilities are read from \S+",
    r"dropout is off in policy and reference \(\d+ values set to 0\)",
    r"warning: .*: more than the \d+ processors of this machine; fewer may be as fast",
)
"""Lines that `mmdpo train` writes to stderr."""
STEP = r"step \d+/4  loss \d\.\d{4}  margin -?\d+\.\d{3}  image margin -?\d+\.\d{3}(  accuracy \d+%)?(  [\d:]+ left)?"


SEVERAL = """
import sys
from mmdpo.cli import main
for words in sys.argv[1:]:
    for stream in (sys.stdout, sys.stderr):
        print("of", words, file=stream, flush=True)
    assert main(words.split()) == 0, words
"""
"""Runs several commands one after another, as a process of its own: what is imported speaks once in it."""


def mmdpo(folder, *words):
    return call(folder, "-m", "mmdpo", *words)


def call(folder, *words):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.slow
def test_every_line_of_a_run_is_ours_and_the_raw_numbers_are_in_files(tmp_path):
    recipe = dict(
        model_name_or_path="world",
        dataset_name=write_pairs(tmp_path, 24).name,
        test_split_size=0.25,
        output_dir="run",
        use_peft=True,
        lora_r=2,
        max_steps=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="no",
        dataloader_num_workers=1,
        use_cpu=True,
        report_to="none",
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    printed, told = mmdpo(tmp_path, "train", "--config", "recipe.yaml")
    assert [line for line in told if not any(re.fullmatch(ours, line) for ours in OURS)] == []
    steps = [line for line in printed if re.fullmatch(STEP, line)]
    assert len(steps) == 4
    assert all(re.search(r"[\d:]+ left$", line) for line in steps[:3])
    assert all(
        re.match(r"step \d/4 eval  loss |trained to step 4 in |Model, rec", line) for line in set(printed) - {*steps}
    )
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert {"loss/rank_image", "logps/chosen", "grad_norm", "learning_rate", "epoch"} <= history[0].keys()

    others = (
        "diagnose --model run --dataset pairs.jsonl --pairs 24 --out looks",
        "merge run merged",
        "eval world --model merged --limit 2 --out scores",
        "report run looks scores",
    )
    assert call(tmp_path, "-c", SEVERAL, *others)[1] == [f"of {words}" for words in others]
