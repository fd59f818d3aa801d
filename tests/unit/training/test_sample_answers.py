"""Sample answers while training: the same losses to the bit, what is written, and where it cannot be."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import small_trainer
from mmdpo import MDPOConfig
from mmdpo.training.sample_answers import PICTURES, SAMPLES, SampleAnswers, undisturbed
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def rows():
    return make_pairs(12, seed=5)


def build_trainer(folder, rows, **changes):
    options = {"output_dir": str(folder), "max_steps": 3, "gradient_checkpointing": True, **changes}
    return small_trainer.build_trainer(folder, rows, **options)


def read_rows(folder):
    return [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]


def test_losses_with_and_without_sample_answers_are_equal_to_the_bit(tmp_path, rows):
    histories = []
    for name, steps in (("without", None), ("with", 1)):
        trainer = build_trainer(tmp_path / name, rows, sample_answers_steps=steps, disable_dropout=False)
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.1  # so that each step draws from the random state
        trainer.train()
        histories.append(
            [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
        )
    assert len(histories[0]) == 3
    assert histories[0] == histories[1]
    assert {row["step"] for row in read_rows(tmp_path / "with")} == {0, 1, 2, 3}
    assert not (tmp_path / "without" / SAMPLES).exists()


def test_random_states_and_the_mode_of_each_module_are_put_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model.train()
    model[0].eval()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        random.random()
        np.random.rand()
        torch.rand(3)
    assert [module.training for module in model] == [False, True]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert after[:2] == before[:2]
    assert torch.equal(after[2], before[2])


def test_answers_and_pictures_of_the_evaluation_examples_are_written_and_shown_in_tensorboard(tmp_path, rows):
    held_out = make_pairs(3, seed=6)
    trainer = build_trainer(
        tmp_path,
        rows,
        eval_dataset=held_out,
        sample_answers_steps=2,
        sample_answers=2,
        report_to="tensorboard",
        eval_strategy="steps",
        eval_steps=3,
    )
    trainer.train()
    written = read_rows(tmp_path)
    assert [row["step"] for row in written] == [0, 0, 2, 2, 3, 3], "the start, every two steps, and the end"
    chosen = [row["chosen"][-1]["content"][0]["text"] for row in held_out[:2]]
    assert [row["chosen"] for row in written[:2]] == chosen
    assert all(row["answer"] and "<" not in row["answer"] for row in written)
    originals = [Image.open(tmp_path / row["pictures"][0]) for row in written[:2]]
    assert [np.asarray(i).tolist() for i in originals] == [np.asarray(r["images"][0]).tolist() for r in held_out[:2]]
    assert all(Image.open(tmp_path / row["corrupted_pictures"][0]).size == (96, 96) for row in written)

    (events,) = (tmp_path / "runs").glob("*/events*")
    found = EventAccumulator(str(events.parent), size_guidance={"tensors": 0}).Reload()
    tags = found.Tags()
    for name in ("loss", "loss/rank_response", "loss/rank_image", "loss/anchor_chosen", "grad_norm"):
        assert f"train/{name}" in tags["scalars"]
    for kind in ("train", "eval"):
        for cell in ("chosen", "rejected", "corrupted"):
            assert {f"{kind}/logps/{cell}", f"{kind}/rewards/{cell}"} <= set(tags["scalars"])
        for name in ("margins", "accuracies", "image_margins", "image_accuracies"):
            assert f"{kind}/rewards/{name}" in tags["scalars"]
    assert set(tags["images"]) == {f"{PICTURES}/{n}/{kind}" for n in (1, 2) for kind in ("image", "corrupted")}
    texts = found.Tensors("sample_answers/1/answer/text_summary")
    assert [text.step for text in texts] == [0, 2, 3]
    assert written[-2]["answer"] in texts[-1].tensor_proto.string_val[0].decode()


def test_a_resumed_run_goes_on_with_the_file(tmp_path, rows):
    changes = dict(sample_answers_steps=1, sample_answers=1, save_strategy="steps", save_steps=2)
    build_trainer(tmp_path, rows, max_steps=3, **changes).train()
    whole = (tmp_path / SAMPLES).read_text()
    with (tmp_path / SAMPLES).open("a") as file:
        file.write('{"step": 3, "id": "cut in the mid')
    build_trainer(tmp_path, rows, max_steps=3, **changes).train(str(tmp_path / "checkpoint-2"))
    assert (tmp_path / SAMPLES).read_text() == whole


def test_a_model_in_pieces_is_refused():
    for is_fsdp, plugin in ((True, None), (False, SimpleNamespace(zero_stage=3))):
        state = SimpleNamespace(deepspeed_plugin=plugin)
        trainer = SimpleNamespace(is_fsdp_enabled=is_fsdp, accelerator=SimpleNamespace(state=state))
        with pytest.raises(ValueError, match="leave it out, or train with DDP or ZeRO-2"):
            SampleAnswers(trainer, None)


@pytest.mark.parametrize("options", [{"sample_answers_steps": -1}, {"sample_answers_steps": 5, "sample_answers": 0}])
def test_impossible_numbers_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=r"sample_answers(_steps)? must be a whole number"):
        MDPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)
