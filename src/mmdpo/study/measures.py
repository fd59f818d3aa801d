"""The measures of a trial: names, units, which way is better, and how they are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mmdpo.benchmarks.records import Item, ItemScore
from mmdpo.benchmarks.tasks._world import WorldBenchmark, make_items
from mmdpo.records import NO_IMAGE, ORIGINAL
from mmdpo.study.reliance import PairScores, measure_accuracy, measure_reliance
from mmdpo.world.evaluate import score_captions
from mmdpo.world.scenes import Scene


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

OF_PREFERENCES = tuple(
    name for name in MEASURES if name.startswith("pairs/") and ("accuracy" in name or "margin" in name)
)
"""Measures of rewards, which the start has none of."""


def measure_scenes(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """Returns the measures of captions."""
    return {f"world/{name}": value for name, value in asdict(score_captions(scenes, captions)).items()}


def measure_pairs(policy: PairScores, start: PairScores, beta: float) -> dict[str, float]:
    """Returns the measures of preferences, rewards being taken against the start."""
    ratios = policy.minus(start)
    values = {
        **asdict(measure_reliance(policy, start)),
        "accuracy_none": measure_accuracy(ratios, NO_IMAGE),
        "margin_real": beta * float(ratios.margins(ORIGINAL).mean()),
        "margin_none": beta * float(ratios.margins(NO_IMAGE).mean()),
    }
    return {f"pairs/{name}": value for name, value in values.items()}


def count_scenes(scenes: Sequence[Scene], captions: Sequence[str], seed: int) -> list[tuple[Item, ItemScore]]:
    """Returns the counts that the measures of captions are sums of, scene by scene, as `mmdpo eval world` has them."""
    score = WorldBenchmark(scenes[0].world).score
    return [(item, score(item, said)) for item, said in zip(make_items(scenes, seed), captions, strict=True)]
