"""Options drawn at random: each combination ends in one clear error, or in a model that is finite and was trained."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmdpo.cli import main
from mmdpo.world.pairs import make_pairs

COMBINATIONS, SEED = 120, 20262

NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "1e-3", "1.5", "1e30", "-0.1", "nan", "inf", "-inf", "ten", ""]
WORDS = ["", "none", "yes", "no", "true", "{", "[1]", '{"a": 1}', "[[[[", "müll\x1b[2J", "a:b", "world", "../x", "null"]
FLAGS = ["true", "false", "perhaps"]
POOLS = [
    (
        "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm warmup_steps num_train_epochs "
        "max_steps gradient_accumulation_steps per_device_train_batch_size logging_steps save_steps eval_steps "
        "save_total_limit eval_delay beta label_smoothing max_length max_tokens_per_row lora_r lora_alpha lora_dropout "
        "test_split_size seed data_seed max_image_pixels precompute_ref_batch_size sample_answers_steps sample_answers "
        "dataset_num_proc dataloader_prefetch_factor shuffle_buffer_size per_device_eval_batch_size "
        "label_smoothing_factor neftune_noise_alpha torch_empty_cache_steps",
        NUMBERS,
    ),
    (
        "corruption_options lr_scheduler_kwargs model_init_kwargs optim_args lora_target_modules report_to "
        "metric_for_best_model chat_template adapter_name_or_path resume_from_checkpoint optim_target_modules "
        "dataset_train_split dtype attn_implementation accelerator_config gradient_checkpointing_kwargs",
        WORDS,
    ),
    (
        "fp16 bf16 use_peft load_best_model_at_end dataloader_drop_last dataset_streaming load_in_4bit "
        "precompute_ref_log_probs corruption_per_epoch disable_dropout freeze_projector use_dora pad_to_square "
        "save_only_model eval_on_start use_liger_kernel",
        FLAGS,
    ),
    ("objective", ["mdpo", "dpo", "sft_chosen", "mdpo_other_image", "svco", "mpdo", *WORDS]),
    ("corruption", ["blank", "noise", "random_image", "crop", "os:getcwd", *WORDS]),
    ("loss_type", ["ipo", "hinge", "robust", ""]),
    ("optim", ["sgd", "adafactor", "lomo", "galore_adamw", "adamw_bnb_8bit", "adam"]),
    (
        "lr_scheduler_type",
        ["linear", "constant", "polynomial", "cosine_with_min_lr", "reduce_lr_on_plateau", "nothing"],
    ),
    ("eval_strategy", ["no", "steps", "epoch", "sometimes"]),
    ("save_strategy", ["no", "steps", "epoch", "best"]),
    ("attention", ["shared", "separate", "flash"]),
    ("train_sampling_strategy", ["random", "sequential", "group_by_length", "batch_rebalance"]),
]
VALUES = {name: values for names, values in POOLS for name in names.split()}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    lines = []
    for number, row in enumerate(make_pairs(6, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    values = {
        "model_name_or_path": "world", "dataset_name": str(folder / "pairs.jsonl"), "output_dir": str(folder / "run"),
        "use_peft": True, "lora_r": 2, "per_device_train_batch_size": 2, "max_steps": 2, "learning_rate": 1e-3,
        "warmup_steps": 0, "gradient_checkpointing": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "no",
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def draw(chance):
    names = chance.sample(sorted(VALUES), chance.choice([1, 2, 2, 3]))
    return [f"--{name}={chance.choice(VALUES[name])}" for name in names]


def find_trouble(status, told, run):
    """Returns what is wrong with how a run has ended, or None."""
    if status == 2:
        if run.exists():
            return "a failed run left its folder behind"
        head = told.splitlines()[-1] if told.strip() else ""
        return None if "mmdpo: " in told and head and "Traceback" not in told else f"no clear error: {told!r}"
    if status != 0:
        return f"status {status}"
    weights = {name: value for file in run.glob("*.safetensors") for name, value in load_file(file).items()}
    if not weights or not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        return "the model is missing or not finite"
    if json.loads((run / "trainer_state.json").read_text())["global_step"] < 1:
        return "no step was taken"
    adapters = [value for name, value in weights.items() if "lora_B" in name]
    return "nothing has moved" if adapters and not any(bool(value.any()) for value in adapters) else None


def test_options_at_random_end_in_one_clear_error_or_in_a_trained_model(recipe, capsys, tmp_path):
    chance, troubles, trained = random.Random(SEED), [], 0
    for number in range(COMBINATIONS):
        flags, run = draw(chance), tmp_path / str(number)
        try:
            status = main(["train", "--config", str(recipe), f"--output_dir={run}", *flags])
            trained += status == 0
            trouble = find_trouble(status, capsys.readouterr().err, Path(run))
        except Exception as error:  # whatever leaves the command is a traceback for its user
            trouble = f"{type(error).__name__}: {error}"[:300]
        if trouble:
            troubles.append(f"{' '.join(flags)}: {trouble}")
    assert not troubles, "\n".join(troubles)
    assert trained >= COMBINATIONS // 20, "the draws refuse nearly everything"
