"""The one trainer of the tests: the embedded world, a few rows, a few steps; any option can be changed."""

import json
from pathlib import Path
from typing import Any

import torch

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.world.pairs import make_pairs

OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 1,
    "probe": False,  # of the world's model it says the same each time, and takes a fourth of a short run's time
}
TRAINER_ARGUMENTS = (
    "ref_model", "data_collator", "eval_dataset", "processing_class", "compute_metrics", "callbacks", "optimizers",
    "peft_config",
)  # fmt: skip


def configure(folder: Path, **changes: Any) -> MDPOConfig:
    """Returns options for a run in `folder/run`."""
    return MDPOConfig(**{**OPTIONS, "output_dir": str(folder / "run"), **changes})


def build_trainer(
    folder: Path, rows: Any, *, model: Any = "world", kind: type[MDPOTrainer] = MDPOTrainer, **changes: Any
) -> MDPOTrainer:
    """Returns a trainer in `folder/run`; `changes` are arguments of the trainer, and options."""
    given = {name: changes.pop(name) for name in TRAINER_ARGUMENTS if name in changes}
    return kind(model, args=configure(folder, **changes), train_dataset=rows, **given)


def write_pairs(folder: Path, count: int, seed: int = 11) -> Path:
    """Writes pairs of the world as a file with a picture for each; returns its path. `world` itself has 768 of them."""
    lines = []
    for number, row in enumerate(make_pairs(count, seed=seed)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"


def open_world() -> tuple[Any, Any]:
    """Returns model and processor of the embedded world."""
    start = resolve_start("world")
    return load_model(start), load_processor(start)


def losses_of(trainer: MDPOTrainer) -> list[float]:
    """Returns the loss of every log."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights_of(trainer: MDPOTrainer) -> dict[str, torch.Tensor]:
    """Returns copies of all weights."""
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def first_batch(trainer: MDPOTrainer, count: int = 4, start: int = 0) -> Any:
    """Returns a batch of the first rows."""
    return trainer.data_collator([trainer.train_dataset[place] for place in range(start, start + count)])
