"""What the quickstart and every study do to a variant: train it from the start, then measure it.

The embedded worlds' own options and held-out material stand here too, once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.study.reliance import (
    WITH_ANOTHER,
    PairScores,
    measure_reliance,
    score_pairs,
)
from mmdpo.training.config import MDPOConfig
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world.evaluate import caption_scenes, score_captions
from mmdpo.world.pairs import DecidedBy, make_pairs, sample_scenes
from mmdpo.world.scenes import Scene
from mmdpo.world.worlds import SMALL, World

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


@dataclass(frozen=True)
class HeldOut:
    """The held-out material that every variant of one seed is measured on; parts may be empty."""

    scenes: Sequence[Scene]
    """Scenes of an embedded world to caption."""
    pairs: Sequence[Any]
    """Preference examples."""
    processor: Any
    seed: int
    images: tuple[str, ...] = WITH_ANOTHER
    """Image versions that the pairs are scored under."""
    batch_size: int = 64
    max_length: int | None = None


@dataclass(frozen=True)
class Answers:
    """What one model said of the held-out material."""

    captions: list[str]
    scores: PairScores | None
    """None without held-out pairs."""


def training_options(
    objective: str, output_dir: str | Path, *, seed: int, epochs: float = WORLD_OPTIONS["num_train_epochs"]
) -> MDPOConfig:
    """Returns the options that the world's variants are trained with; they differ in the objective alone."""
    chosen = dict(output_dir=str(output_dir), objective=objective, seed=seed, num_train_epochs=epochs)
    return MDPOConfig(**{**WORLD_OPTIONS, **chosen})


def make_world_pairs(
    count: int, seed: int, purpose: str = "preference", decided_by: DecidedBy = "style", world: World = SMALL
) -> PreferenceDataset:
    """Returns preference pairs of an embedded world; another purpose has other scenes."""
    rows = make_pairs(count, seed, purpose=purpose, decided_by=decided_by, world=world)
    return PreferenceDataset.from_rows(rows, name=f"{world.name}, {purpose}")


def make_world_scenes(count: int, seed: int, world: World = SMALL) -> list[Scene]:
    """Returns test scenes of an embedded world."""
    return sample_scenes(count, seed, world=world)


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


def ask(model: Any, held_out: HeldOut) -> Answers:
    """Captions the scenes and scores the pairs."""
    captions = caption_scenes(model, held_out.processor, held_out.scenes, batch_size=CAPTION_BATCH)
    if not held_out.pairs:
        return Answers(captions, None)
    scores = score_pairs(
        model,
        held_out.processor,
        held_out.pairs,
        seed=held_out.seed,
        images=held_out.images,
        batch_size=held_out.batch_size,
        max_length=held_out.max_length,
    )
    return Answers(captions, scores)


def measure_world(answers: Answers, start: Answers, held_out: HeldOut) -> dict[str, float | None]:
    """Returns the measures of the quickstart's table: those of captions, and image reliance against the start."""
    assert answers.scores is not None
    assert start.scores is not None
    scores = score_captions(held_out.scenes, answers.captions)
    return {**asdict(scores), **asdict(measure_reliance(answers.scores, start.scores))}
