"""Every recipe of the repository, dry-run: on a tiny model of its name's class, and on rows as its dataset has them."""

import copy
import json
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from PIL import Image

from mmdpo.cli import main
from mmdpo.data.formats import names as format_names
from mmdpo.models import load, start
from mmdpo.training import dry_run
from mmdpo.world.pairs import make_pairs

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from tiny_models import MODELS

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "src" / "mmdpo" / "recipes").glob("*.yaml"))}

CLASSES = {
    "checkpoints/bunny-v1.0-3b": "bunny",
    "llava-hf/llava-1.5-7b-hf": "llava_1_5",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": "smolvlm",
    "google/gemma-3-4b-it": "gemma3",
    "OpenGVLab/InternVL3-8B-hf": "internvl",
}
"""The tiny model of the class that a published checkpoint has."""

CURIOUS = "A chat between a curious user and an artificial intelligence assistant. USER: <image>\n{} ASSISTANT:"


def write_vlfeedback(folder):
    """Rows as they stand in vlfeedback_llava_10k.json, beside their images."""
    rows = []
    for number in range(3):
        Image.effect_noise((40 + 8 * number, 32), 60).convert("RGB").save(folder / f"{number}.png")
        prompt = CURIOUS.format("What is in the picture?" * (number + 1))
        rows.append({"img_path": f"{number}.png", "prompt": prompt, "chosen": "A red cup.", "rejected": "Two dogs."})
    (folder / "rows.json").write_text(json.dumps(rows))
    return ["--dataset_name", str(folder / "rows.json"), "--image_root", str(folder)]


def write_rlaif(folder):
    """Rows as they stand in the Parquet files of rlaif-v_formatted: turns whose content is a list, two splits."""
    rows = []
    for number in range(6):
        text = {"type": "text", "text": f"What is in the picture{'?' * (number + 1)}"}
        prompt = [{"role": "user", "content": [{"type": "image", "text": None}, text]}]
        answers = {
            name: [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
            for name, answer in (("chosen", "A red cup."), ("rejected", "Two dogs."))
        }
        images = [Image.effect_noise((40 + 8 * number, 32), 60).convert("RGB")]
        rows.append({"images": images, "prompt": prompt, **answers})
    for split, part in {"train": rows[:4], "test": rows[4:]}.items():
        (folder / "data").mkdir(exist_ok=True)
        Dataset.from_list(part).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return ["--dataset_name", str(folder)]


def write_own(folder):
    """A user's JSON Lines, in TRL's format."""
    lines = []
    for number, row in enumerate(make_pairs(50, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return ["--dataset_name", str(folder / "pairs.jsonl")]


DATASETS = {
    "data/vlfeedback_llava_10k.json": write_vlfeedback,
    "HuggingFaceH4/rlaif-v_formatted": write_rlaif,
    "pairs.jsonl": write_own,
    "world": lambda folder: [],
}
"""Rows as each dataset has them, whatever a recipe says of their format."""


@pytest.fixture
def tiny_hub(monkeypatch):
    """Lets names of published checkpoints mean tiny models; what comes after loading them is as it is."""

    def find(name):
        if name not in CLASSES:
            raise OSError(f"no published checkpoint is called {name}")
        return MODELS[CLASSES[name]]()

    class Configs:
        @staticmethod
        def get_config_dict(name, **options):
            return find(name).model.config.to_dict(), {}

        @staticmethod
        def from_pretrained(name, **options):
            return type(find(name).model.config).from_dict(find(name).model.config.to_dict())

    class Processors:
        @staticmethod
        def from_pretrained(name, **options):
            return copy.deepcopy(find(name).processor)  # which options of a recipe change in place

    monkeypatch.setattr(load, "PreTrainedConfig", Configs)
    monkeypatch.setattr(load, "AutoConfig", Configs)
    monkeypatch.setattr(load, "AutoProcessor", Processors)
    monkeypatch.setattr(start, "find_adapter_config_file", lambda name, **options: None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_a_dry_run(name, tiny_hub, tmp_path, monkeypatch, capsys):
    recipe = yaml.safe_load(RECIPES[name].read_text())
    if recipe["model_name_or_path"] == "world":
        monkeypatch.undo()
        few = {"train": (64, "preference"), "test": (32, "held-out")}  # of 768 and 256 pairs, which are alike
        monkeypatch.setattr("mmdpo.data.examples.WORLD_SPLITS", few)
    plans = []
    planned = dry_run.plan_run
    monkeypatch.setattr(dry_run, "plan_run", lambda recipe: plans.append(planned(recipe)) or plans[0])
    monkeypatch.setenv("COLUMNS", "200")
    rows = DATASETS[recipe["dataset_name"]](tmp_path)
    changes = [*rows, "--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--dataset_num_proc", "1"]
    assert main(["train", "--config", str(RECIPES[name]), *changes, "--dry_run"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "shared: answers under one image share its prompt" in told
    assert "faulty" not in told
    assert recipe.get("use_peft", False) == ("LoRA of rank 64" in told)
    assert not (tmp_path / "run").exists()

    (plan,) = plans
    assert plan.pairs_per_step == 32, "the paper's batch on one GPU"
    moving = {part.part for part in plan.parts if part.trained}
    assert moving == ({"adapter"} if recipe.get("use_peft") else {"language_model", "projector"})
    assert plan.eval_pairs is None or plan.eval_pairs > 0
    assert "scored before training" in plan.reference


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is(name):
    text, values = RECIPES[name].read_text(), yaml.safe_load(RECIPES[name].read_text())
    assert values["output_dir"] == f"runs/{name}"
    assert f"mmdpo train --config {name}" in text or name == "world-mdpo"
    assert values.get("dataset_format", "auto") in (*format_names(), "auto")
    if "dpo" in name and name != "world-mdpo":
        paper = dict(beta=0.1, learning_rate=1e-5, lora_r=64, lora_alpha=128, warmup_steps=0.1, adam_beta2=0.98)
        assert paper.items() <= {key: float(values[key]) for key in paper}.items()
        assert (values["lr_scheduler_type"], values["weight_decay"], values["lora_dropout"]) == ("cosine", 0.05, 0.0)


def test_the_ablations_differ_from_mdpo_in_one_line():
    """But for what they are called, and for a corruption that no cell has."""
    values = {name: yaml.safe_load(path.read_text()) for name, path in RECIPES.items()}
    whole = values["bunny-v1.0-3b-mdpo"]
    for name, objective in (
        ("bunny-v1.0-3b-mdpo-without-conditional", "dpo_anchor"),
        ("bunny-v1.0-3b-mdpo-without-anchor", "dpo_conditional"),
        ("bunny-v1.0-3b-dpo", "dpo"),
    ):
        differs = {key for key in whole if values[name].get(key) != whole[key]}
        assert differs <= {"objective", "output_dir", "corruption"}
        assert values[name]["objective"] == objective
        assert set(values[name]) <= set(whole)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("lora_rank", 64, "unknown key 'lora_rank'; did you mean"), ("dataset_format", "trl", "rows.json"),
     ("dataset_format", "mdpo_jsn", "mdpo_jsn"), ("objective", "mdop", "mdop"),
     ("model_name_or_path", "llava-hf/llava-1.5-7b", "there is no folder llava-hf/llava-1.5-7b here")],
    ids=str,
)  # fmt: skip
def test_a_recipe_with_a_mistake_does_not_pass(key, value, message, tiny_hub, tmp_path, capsys):
    values = yaml.safe_load(RECIPES["llava-v1.5-7b-mdpo"].read_text()) | {key: value}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    changes = [*write_vlfeedback(tmp_path), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    assert main(["train", "--config", str(tmp_path / "recipe.yaml"), *changes, "--dry_run"]) == 2
    assert message in capsys.readouterr().err
