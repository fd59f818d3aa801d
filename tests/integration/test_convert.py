"""`mmdpo convert bunny` as a user types it, and training on what it wrote."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo.checkpoints import bunny
from mmdpo.cli import main
from tiny_bunny import TOWER, TOWER_SETTINGS, write_bunny

RECIPE = Path(__file__).parents[2] / "src" / "mmdpo" / "recipes" / "bunny-v1.0-3b-mdpo.yaml"

PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\nWhat is this? ASSISTANT:"
)


@pytest.fixture
def converted(tmp_path, monkeypatch):
    monkeypatch.setitem(bunny.VISION_TOWERS, TOWER, TOWER_SETTINGS)
    source = write_bunny(tmp_path / "original")
    assert main(["convert", "bunny", str(source), str(tmp_path / "converted")]) == 0
    return tmp_path / "converted"


@pytest.fixture
def recipe(tmp_path, converted):
    """The paper's recipe, on a tiny checkpoint and four pairs in the format of the paper's data."""
    rows = []
    for number in range(4):
        Image.effect_noise((40, 24 + number), 90).convert("RGB").save(tmp_path / f"{number}.png")
        rows.append({"img_path": f"{number}.png", "prompt": PROMPT, "chosen": f"A cup {number}.", "rejected": "A dog."})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    values = yaml.safe_load(RECIPE.read_text())
    values |= {
        "model_name_or_path": str(converted), "dataset_name": str(tmp_path / "pairs.json"), "dtype": "float32",
        "image_root": str(tmp_path), "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1, "max_steps": 2, "warmup_steps": 0, "lora_r": 2, "use_cpu": True,
        "dataloader_num_workers": 0, "dataset_num_proc": 1, "report_to": "none", "logging_steps": 1, "max_length": 200,
        "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def test_there_and_back_and_not_twice(converted, tmp_path, capsys):
    back = tmp_path / "back"
    assert main(["convert", "bunny", "--reverse", str(converted), str(back)]) == 0
    assert (back / "config.json").read_bytes() == (tmp_path / "original" / "config.json").read_bytes()
    assert not list(back.glob("*.py"))
    capsys.readouterr()
    assert main(["convert", "bunny", str(tmp_path / "original"), str(converted)]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["convert", "bunny", str(converted), str(tmp_path / "other")]) == 2
    assert "model_type is 'llava'" in capsys.readouterr().err
    assert main(["convert", "bunny", "nobody/nothing", str(tmp_path / "other")]) == 2
    assert (
        "there is no folder nobody/nothing here, and no model of that name could be fetched" in capsys.readouterr().err
    )
    assert main(["convert", "bunny", str(tmp_path / "original"), str(tmp_path / "x"), "--original", "y"]) == 2
    assert "--original goes with --reverse" in capsys.readouterr().err


def test_a_step_of_the_paper_s_recipe_moves_the_language_model_alone(recipe, tmp_path):
    assert main(["train", "--config", str(recipe)]) == 0
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert history[0]["loss"] == pytest.approx(2.07944, abs=1e-4)  # 3 ln 2: policy and reference are one
    names = list(load_file(tmp_path / "run" / "adapter_model.safetensors"))
    layers = {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == layers
    assert all(".language_model.layers." in name for name in names), "SigLIP has a q_proj and an fc1 too"

    # What was trained goes back to the original's layout.
    merged, back = tmp_path / "merged", tmp_path / "back"
    assert main(["merge", str(tmp_path / "run"), str(merged)]) == 0
    assert main(["convert", "bunny", "--reverse", str(merged), str(back)]) == 0
    model = AutoModelForImageTextToText.from_pretrained(merged)
    trained = load_file(back / "model.safetensors")
    key = "model.layers.0.mlp.fc1.weight"
    assert torch.equal(trained[key], model.state_dict()["model.language_model.layers.0.mlp.fc1.weight"])
    assert not torch.equal(trained[key], load_file(tmp_path / "original" / "model-00001-of-00002.safetensors")[key])
    assert model.generation_config.suppress_tokens == [model.config.image_token_index]


def test_training_the_whole_model_keeps_its_layout(recipe, tmp_path):
    assert main(["train", "--config", str(recipe), "--use_peft", "false"]) == 0
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in saved if name.endswith("lm_head.bias")]
    model, loading = AutoModelForImageTextToText.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(loading.values())
    assert model.generation_config.suppress_tokens == [model.config.image_token_index]
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    assert processor.image_processor.do_pad
    assert processor.chat_template == AutoProcessor.from_pretrained(tmp_path / "converted").chat_template
