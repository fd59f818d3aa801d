"""The measures of a trial: names, units, which way is better, and how they are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.diagnosis.pair_scores import OTHER, PairScores
from mmdpo.evaluation.benchmark_run import run_benchmark
from mmdpo.evaluation.options import EvaluationOptions
from mmdpo.options import UsageError, parse_options
from mmdpo.records import CHOSEN, NO_IMAGE, ORIGINAL, REJECTED
from mmdpo.world.scenes import Scene, score_captions


@dataclass(frozen=True)
class Measure:
    """How a measure is printed."""

    label: str
    unit: str
    better: str
    """higher, lower or neither."""
    digits: int = 1


MEASURES: Mapping[str, Measure] = {
    "world/chair_i": Measure("CHAIR_i", "%", "lower"),
    "world/chair_s": Measure("CHAIR_s", "%", "lower"),
    "world/cover": Measure("Cover", "%", "higher"),
    "world/cog": Measure("Cog", "%", "lower"),
    "pairs/delta_logp_chosen": Measure("Δ log p(chosen)", "nats", "neither", 2),
    "pairs/accuracy_real": Measure("pair acc., real image", "%", "higher"),
    "pairs/accuracy_other": Measure("pair acc., other image", "%", "neither"),
    "pairs/accuracy_none": Measure("pair acc., no image", "%", "neither"),
    "pairs/margin_real": Measure("margin, real image", "reward", "neither", 2),
    "pairs/margin_none": Measure("margin, no image", "reward", "neither", 2),
    "pairs/image_gain": Measure("image gain", "nats", "higher"),
    "time/train": Measure("training", "s", "neither"),
}
"""Measures of every study; those of benchmarks bring their own records."""

OF_PREFERENCES = tuple(name for name in MEASURES if name.startswith(("pairs/accuracy", "pairs/margin")))
"""Measures of rewards, which the start has none of."""


@dataclass(frozen=True)
class Reliance:
    """How a policy's preference compares with its reference's, and whether it needs the image."""

    delta_logp_chosen: float
    """Mean change of log π(chosen | image) against the reference, in nats."""
    accuracy_real: float
    """Per cent of pairs whose chosen answer has the higher reward under the right image."""
    accuracy_other: float
    """The same under another example's image: equal to `accuracy_real` where the image does not matter."""
    image_gain: float
    """Mean log π(chosen | image) − log π(chosen | another example's image), in nats."""


def measure_reliance(policy: PairScores, reference: PairScores) -> Reliance:
    """Compares a policy with its reference on the same pairs. β only scales rewards, so it is not needed here."""
    ratios = policy.minus(reference)
    return Reliance(
        delta_logp_chosen=float(ratios.of(ORIGINAL, CHOSEN).mean()),
        accuracy_real=_accuracy(ratios, ORIGINAL),
        accuracy_other=_accuracy(ratios, OTHER),
        image_gain=float((policy.of(ORIGINAL, CHOSEN) - policy.of(OTHER, CHOSEN)).mean()),
    )


def measure_scenes(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """Returns the measures of captions."""
    return {f"world/{name}": value for name, value in asdict(score_captions(scenes, captions)).items()}


def measure_pairs(policy: PairScores, start: PairScores, beta: float) -> dict[str, float]:
    """Returns the measures of preferences; rewards are taken against the start."""
    ratios = policy.minus(start)
    values = {
        **asdict(measure_reliance(policy, start)),
        "accuracy_none": _accuracy(ratios, NO_IMAGE),
        "margin_real": beta * float(ratios.margins(ORIGINAL).mean()),
        "margin_none": beta * float(ratios.margins(NO_IMAGE).mean()),
    }
    return {f"pairs/{name}": value for name, value in values.items()}


def measure_benchmark(benchmark: Mapping[str, Any], model: str, out: Path) -> dict[str, tuple[float | None, Measure]]:
    """Lets a model answer a benchmark by `mmdpo eval`, into the folder `out`; returns the numbers by name.

    Every key of `benchmark` but its name is an option of `mmdpo eval`. Raises EvaluationError for an option that it
    does not have, and what answering and scoring raise.
    """
    flags = [f"--{key}={value}" for key, value in benchmark.items() if key != "name" and not isinstance(value, bool)]
    flags += [f"--{key}" for key, value in benchmark.items() if value is True]
    name = str(benchmark["name"])
    try:
        options = parse_options(EvaluationOptions, [f"--model={model}", f"--out={out}", *flags], f"eval {name}")
    except UsageError as error:
        raise EvaluationError(f"evaluation: benchmarks: {error}") from error
    run_benchmark(name, options)
    return {
        name: (found["value"], Measure(name, found["unit"], found["better"], 2))
        for name, found in read_data(out / "result.json")["metrics"].items()
    }


def _accuracy(ratios: PairScores, image: str) -> float:
    """Returns the per cent of pairs whose chosen answer has the higher reward under an image."""
    return 100 * float((ratios.of(image, CHOSEN) > ratios.of(image, REJECTED)).float().mean())
