"""Real photographs of all kinds through the real processor classes: one step, one evaluation."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from mmdpo.data.images import open_image
from mmdpo.data.pixels import look_up

EXAMPLE = Path(__file__).parents[2] / "examples" / "real_photographs.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("real_photographs", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trainer(example, tmp_path_factory):
    return example.main(tmp_path_factory.mktemp("photographs"))


def test_photographs_are_what_users_have(example, tmp_path):
    """Different modes and shapes on disk, all upright RGB once opened."""
    from PIL import Image

    example.write_photographs(tmp_path)
    stored = {path.name: Image.open(path) for path in tmp_path.iterdir()}
    assert stored["grey.jpg"].mode == "L"
    assert stored["palette.png"].mode == "P"
    assert stored["turned.jpg"].size == (160, 240)
    opened = {name: open_image(tmp_path / name) for name in stored}
    assert {image.mode for image in opened.values()} == {"RGB"}
    assert opened["turned.jpg"].size == (240, 160), "the EXIF tag was not followed"
    assert len({image.size for image in opened.values()}) == 5
    upright = torch.tensor(list(opened["coffee.jpg"].resize((24, 16)).tobytes())).float()
    turned = torch.tensor(list(opened["turned.jpg"].resize((24, 16)).tobytes())).float()
    assert (upright - turned).abs().mean() < 8, "turned the wrong way"


def test_one_step_starts_at_3_ln_2_and_lowers_the_loss(trainer):
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert first["loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
    assert first["grad_norm"] > 0
    after = next(entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry)
    assert after["eval_loss"] < first["loss"]
    assert after["eval_rewards/margins"] > 0
    assert all(math.isfinite(value) for value in after.values())


def test_every_photograph_reaches_the_model(trainer):
    """Six originals and six crops in one batch, each different from all others, 16 image tokens a piece."""
    items = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    batch = trainer.data_collator(items)
    pixels = look_up(batch["image_inputs"])["pixel_values"]
    assert pixels.shape == (12, 3, 56, 56)
    distances = torch.cdist(pixels.flatten(1), pixels.flatten(1)) + torch.eye(12) * 1e9
    assert distances.min() > 1
    is_image = batch["prompt_ids"] == trainer.processing_class.image_token_id
    assert is_image.sum(1).tolist() == [16] * 12
