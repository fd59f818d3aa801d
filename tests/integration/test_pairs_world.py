"""Pairs of the embedded world's own model, from the command: what they will cost, and that TRL trains on them."""

import json

import pytest
from datasets import load_dataset

from mmdpo.cli import main
from mmdpo.pairs.run import PairsRun
from mmdpo.world.model import CHECKPOINT
from tests.pairs_help import parse

COMMAND = ("--prompts", "world", "--model", "world", "--max_new_tokens", "48")
COMMAND += ("--judges", "objects", "--num_samples", "4")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Pairs of 60 prompts; the rest of the first 20's cost was estimated."""
    folder = tmp_path_factory.mktemp("world") / "run"
    words = ["pairs", "all", *COMMAND, "--out", str(folder)]
    assert main([*words, "--limit", "20"]) == 0
    estimate, *_ = PairsRun(parse(*COMMAND, "--out", folder, "--limit", 60)).estimate()
    (folder / "estimate.json").write_text(json.dumps([estimate.spent.read, estimate.spent.written, estimate.share]))
    assert main([*words, "--limit", "60"]) == 0
    return folder


@pytest.mark.slow
def test_the_rest_is_estimated_within_fifteen_per_cent(run):
    read, written, share = json.loads((run / "estimate.json").read_text())
    spent = json.loads((run / "cost.json").read_text())["steps"]["sample"]
    assert spent["requests"] == 60 * 5
    for before, after in ((read, spent["read"]), (written, spent["written"])):
        assert before * (1 + share) == pytest.approx(after, rel=0.15)


@pytest.mark.slow
def test_trl_trains_on_the_file_as_it_is(run, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    dataset = load_dataset("parquet", data_files=str(run / "dataset" / "train.parquet"), split="train")
    trainer = DPOTrainer(
        AutoModelForImageTextToText.from_pretrained(CHECKPOINT),
        ref_model=AutoModelForImageTextToText.from_pretrained(CHECKPOINT),
        args=DPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=2, max_length=None,
            per_device_train_batch_size=4, gradient_checkpointing=False, save_strategy="no", logging_steps=1,
        ),
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(CHECKPOINT),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "policy and reference are one, so that DPO's loss is log 2"
    assert losses[1] != losses[0]
