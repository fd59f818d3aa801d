"""What the quickstart and every study do to a variant: train it from the start, then measure what it says.

The embedded worlds' own options stand here too, once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from mmdpo.benchmarks.reading import read_data
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER, PairScores, score_pairs
from mmdpo.evaluation.benchmark_run import run_benchmark
from mmdpo.evaluation.options import EvaluationOptions
from mmdpo.options import as_words, parse_options
from mmdpo.records import CHOSEN, NO_IMAGE, ORIGINAL, REJECTED
from mmdpo.training.config import MDPOConfig
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world import SMALL, World
from mmdpo.world.model import caption_scenes
from mmdpo.world.pairs import DecidedBy, make_pairs
from mmdpo.world.scenes import Scene, score_captions

CORRUPTION = "crop_0_20"
WORLD_OPTIONS: Mapping[str, Any] = dict(
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
    objective: str,
    output_dir: str | Path,
    *,
    seed: int,
    epochs: float = WORLD_OPTIONS["num_train_epochs"],
    learning_rate: float = WORLD_OPTIONS["learning_rate"],
) -> MDPOConfig:
    """Returns the options that the small world's variants are trained with; they differ in objective and rate alone."""
    chosen = dict(objective=objective, seed=seed, num_train_epochs=epochs, learning_rate=learning_rate)
    return MDPOConfig(**{**WORLD_OPTIONS, "output_dir": str(output_dir), **chosen})


def make_world_pairs(
    count: int,
    seed: int,
    purpose: str = "preference",
    decided_by: DecidedBy = "style",
    world: World = SMALL,
    pairs_per_scene: int = 1,
) -> PreferenceDataset:
    """Returns preference pairs of an embedded world; another purpose has other scenes."""
    rows = make_pairs(count, seed, purpose=purpose, decided_by=decided_by, world=world, pairs_per_scene=pairs_per_scene)
    return PreferenceDataset.from_rows(rows, name=f"{world.name}, {purpose}")


def measure_captions(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """Returns CHAIR, Cover and Cog, their harmonic mean, and how often an object that is named is named.

    f1      the harmonic mean of 100 − CHAIR_i and Cover, in per cent
    repeat  words for objects, over different ones: 1 where no caption names one twice
    """
    found = asdict(score_captions(scenes, captions))
    precision, recall = 100 - found["chair_i"], found["cover"]
    found["f1"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    named = [
        [word for word in caption.split() if word in scene.world.objects]
        for scene, caption in zip(scenes, captions, strict=True)
    ]
    different = sum(len(set(of)) for of in named)
    found["repeat"] = sum(map(len, named)) / different if different else 1.0
    return {f"world/{name}": value for name, value in found.items()}


def train_variant(
    model: str, args: MDPOConfig, pairs: Any, callbacks: Sequence[TrainerCallback] = (), **others: Any
) -> MDPOTrainer:
    """Trains from the start, writes trainer_state.json into the run folder, and returns the trainer.

    `others` are arguments of the trainer.
    """
    trainer = MDPOTrainer(model, args=args, train_dataset=pairs, callbacks=list(callbacks), **others)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()
    return trainer


@dataclass(frozen=True)
class HeldOut:
    """What every variant of one seed is measured on: scenes to caption and preference pairs; both may be empty.

    The collator makes batches of the pairs under each image version; its processor reads the scenes too.
    """

    scenes: Sequence[Scene]
    pairs: Sequence[Any]
    collator: Collator
    batch_size: int = 64

    def ask(self, model: Any) -> tuple[list[str], PairScores | None]:
        """Returns the captions of the scenes, and the scores of the pairs, None without pairs."""
        captions = list[str]()
        if self.scenes:  # a model of another world may have no chat template, or one that takes no such prompt
            captions = caption_scenes(model, self.collator.prepare.renderer.processor, self.scenes, batch_size=100)
        if not self.pairs:
            return captions, None
        return captions, score_pairs(model, self.collator, self.pairs, batch_size=self.batch_size)


@dataclass(frozen=True)
class Measure:
    """How a measure is printed; `better` is higher, lower or neither."""

    label: str
    unit: str
    better: str
    digits: int = 1


MEASURES: Mapping[str, Measure] = {
    "world/chair_i": Measure("CHAIR_i", "%", "lower"),
    "world/chair_s": Measure("CHAIR_s", "%", "lower"),
    "world/cover": Measure("Cover", "%", "higher"),
    "world/cog": Measure("Cog", "%", "lower"),
    "world/f1": Measure("F1 of CHAIR_i and Cover", "%", "higher"),
    "world/repeat": Measure("mentions of an object", "", "lower", 2),
    "pairs/delta_logp_chosen": Measure("Δ log p(chosen)", "nats", "neither", 2),
    "pairs/accuracy_real": Measure("pair acc., real image", "%", "higher"),
    "pairs/accuracy_other": Measure("pair acc., other image", "%", "neither"),
    "pairs/accuracy_none": Measure("pair acc., no image", "%", "neither"),
    "pairs/margin_real": Measure("margin, real image", "reward", "neither", 2),
    "pairs/margin_none": Measure("margin, no image", "reward", "neither", 2),
    "pairs/image_gain": Measure("image gain", "nats", "higher"),
    "own/pairs": Measure("own pairs", "", "neither", 0),
    "own/yield": Measure("prompts that give a pair", "%", "neither"),
    "own/chosen_error": Measure("wrong claims of chosen answers", "%", "neither"),
    "own/pool_error": Measure("wrong claims of all answers", "%", "neither"),
    "own/words_difference": Measure("words, chosen − rejected", "% of the mean", "neither"),
    "time/train": Measure("training", "s", "neither"),
}
"""Measures of every study; those of benchmarks bring their own records."""

REPEATING = ("world/chair_s", "world/cog", "world/repeat")
"""Measures that say again, for one kind of captions or of mistakes, what CHAIR_i says: no claims of their own."""
OF_PREFERENCES = tuple(name for name in MEASURES if name.startswith(("pairs/accuracy", "pairs/margin")))
"""Measures of rewards, which the start has none of."""


def measure_reliance(policy: PairScores, reference: PairScores) -> dict[str, float]:
    """Compares a policy with its reference on the same pairs: does its preference need the image?

    Returns
        delta_logp_chosen  mean change of log π(chosen | image) against the reference, in nats
        accuracy_real      per cent of pairs whose chosen answer has the higher reward under the right image
        accuracy_other     the same under another example's image: equal where the image does not matter
        image_gain         mean log π(chosen | image) − log π(chosen | another example's image), in nats

    β only scales rewards, so it is not needed here.
    """
    ratios = policy.minus(reference)
    return dict(
        delta_logp_chosen=float(ratios.of(ORIGINAL, CHOSEN).mean()),
        accuracy_real=_accuracy(ratios, ORIGINAL),
        accuracy_other=_accuracy(ratios, OTHER),
        image_gain=float((policy.of(ORIGINAL, CHOSEN) - policy.of(OTHER, CHOSEN)).mean()),
    )


def measure_pairs(policy: PairScores, start: PairScores, beta: float) -> dict[str, float]:
    """Returns the measures of preferences; rewards are taken against the start."""
    ratios = policy.minus(start)
    values = {
        **measure_reliance(policy, start),
        "accuracy_none": _accuracy(ratios, NO_IMAGE),
        "margin_real": beta * float(ratios.margins(ORIGINAL).mean()),
        "margin_none": beta * float(ratios.margins(NO_IMAGE).mean()),
    }
    return {f"pairs/{name}": value for name, value in values.items()}


def _accuracy(ratios: PairScores, image: str) -> float:
    return 100 * float((ratios.of(image, CHOSEN) > ratios.of(image, REJECTED)).float().mean())


def choose_benchmark_options(benchmark: Mapping[str, Any], model: str, out: str | Path) -> EvaluationOptions:
    """Returns how a benchmark is asked and scored: every key of `benchmark` but its name is an option of `mmdpo eval`.

    Raises ValueError for an option that there is none of, or a value that it does not take.
    """
    given = {"model": model, "out": str(out), **benchmark}
    name = given.pop("name")
    return parse_options(EvaluationOptions, as_words(given), f"eval {name}")


def measure_benchmark(benchmark: Mapping[str, Any], model: str, out: Path) -> dict[str, tuple[float | None, Measure]]:
    """Lets a model answer a benchmark by `mmdpo eval`, into the folder `out`; returns the numbers by name.

    Raises what `choose_benchmark_options`, answering and scoring raise.
    """
    run_benchmark(str(benchmark["name"]), choose_benchmark_options(benchmark, model, out))
    return {
        name: (found["value"], Measure(name, found["unit"], found["better"], 2))
        for name, found in read_data(out / "result.json")["metrics"].items()
    }
