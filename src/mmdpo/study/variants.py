"""What the quickstart and every study do to a variant: train it from the start, then caption scenes and score pairs.

The embedded worlds' own options stand here too, once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import PairScores, score_pairs
from mmdpo.training.config import MDPOConfig
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world import SMALL, World
from mmdpo.world.model import caption_scenes
from mmdpo.world.pairs import DecidedBy, make_pairs
from mmdpo.world.scenes import Scene

CORRUPTION = "crop_0_20"
CAPTION_BATCH = 100

WORLD_OPTIONS: Mapping[str, Any] = MappingProxyType(
    dict(
        corruption=CORRUPTION,
        freeze_projector=False,
        learning_rate=3e-4,
        per_device_train_batch_size=32,
        num_train_epochs=2,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=64,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
)
"""The small world's measured recipe: what its variants are trained with, where a study does not say otherwise."""


def world_options(world: World) -> dict[str, Any]:
    """Returns what the variants of a world are trained with; the large one's on a GPU, where there is one.

    The learning rate is inverse to the width of the model, as Adam's is under maximal-update parametrisation
    (arXiv 2203.03466): twice the width, half the rate.
    """
    options = {"model_name_or_path": world.name, "dataset_name": world.name, **WORLD_OPTIONS}
    rate = WORLD_OPTIONS["learning_rate"] * SMALL.network.hidden_size / world.network.hidden_size
    return options if world is SMALL else {**options, "use_cpu": False, "learning_rate": rate}


def training_options(
    objective: str, output_dir: str | Path, *, seed: int, epochs: float = WORLD_OPTIONS["num_train_epochs"]
) -> MDPOConfig:
    """Returns the options that the small world's variants are trained with; they differ in the objective alone."""
    chosen = dict(output_dir=str(output_dir), objective=objective, seed=seed, num_train_epochs=epochs)
    return MDPOConfig(**{**WORLD_OPTIONS, **chosen})


def make_world_pairs(
    count: int, seed: int, purpose: str = "preference", decided_by: DecidedBy = "style", world: World = SMALL
) -> PreferenceDataset:
    """Returns preference pairs of an embedded world; another purpose has other scenes."""
    rows = make_pairs(count, seed, purpose=purpose, decided_by=decided_by, world=world)
    return PreferenceDataset.from_rows(rows, name=f"{world.name}, {purpose}")


def train_variant(
    model: str,
    args: MDPOConfig,
    pairs: Any,
    *,
    eval_pairs: Any = None,
    peft_config: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> MDPOTrainer:
    """Trains from the start, writes trainer_state.json into the run folder, and returns the trainer."""
    trainer = MDPOTrainer(
        model,
        args=args,
        train_dataset=pairs,
        eval_dataset=eval_pairs,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()
    return trainer


@dataclass(frozen=True)
class HeldOut:
    """The held-out material that every variant of one seed is measured on; parts may be empty."""

    scenes: Sequence[Scene]
    """Scenes of an embedded world to caption."""
    pairs: Sequence[Any]
    """Preference examples."""
    collator: Collator
    """Makes batches of the pairs under each image version; its processor reads the scenes too."""
    batch_size: int = 64


@dataclass(frozen=True)
class HeldOutAnswers:
    """What one model said of the held-out material."""

    captions: list[str]
    scores: PairScores | None
    """None without held-out pairs."""


def ask(model: Any, held_out: HeldOut) -> HeldOutAnswers:
    """Captions the scenes and scores the pairs."""
    processor = held_out.collator.prepare.renderer.processor
    captions = caption_scenes(model, processor, held_out.scenes, batch_size=CAPTION_BATCH)
    if not held_out.pairs:
        return HeldOutAnswers(captions, None)
    return HeldOutAnswers(
        captions, score_pairs(model, held_out.collator, held_out.pairs, batch_size=held_out.batch_size)
    )
