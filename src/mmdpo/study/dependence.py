"""How far a preference depends on the image: accuracies and margins under each image version, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmdpo.benchmarks.records import Metric, Sums, Values, divide
from mmdpo.benchmarks.stats import CountTable, Interval, bootstrap
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED
from mmdpo.study.reliance import OTHER, PairScores

CONDITIONS: Mapping[str, str] = {ORIGINAL: "real", CORRUPTED: "corrupted", OTHER: "other", NO_IMAGE: "none"}
"""Image version → its name in a diagnosis."""
IMAGES: Mapping[str, str] = {
    "real": "the real image",
    "corrupted": "the corrupted image",
    "other": "another example's image",
    "none": "no image",
}
LEAST_IMAGES = 10
"""Fewer distinct images than these say too little for a bootstrap interval."""
SMALL = 5.0
"""Points of accuracy below which a dependence would be called small."""


@dataclass(frozen=True)
class PairValues:
    """What one model prefers, pair by pair; entries are examples."""

    margins: Mapping[str, Float[Tensor, "N"]]
    """chosen − rejected by condition: rewards with a reference, else log-probabilities in nats."""
    gains: Mapping[str, Float[Tensor, "N"]]
    """log π(response | image) − log π(response | no image) by response, in nats."""
    unit: str
    """`reward` or `nats`."""

    @property
    def reliance(self) -> Float[Tensor, "N"]:
        """Returns the part of each margin that is gone without the image."""
        return self.margins["real"] - self.margins["none"]


def compare_images(policy: PairScores, reference: PairScores | None, beta: float) -> PairValues:
    """Returns margins under every image version that was scored, and what the image adds to each answer."""
    versions = {cell.image for cell in policy.by_cell}
    scores = policy if reference is None else policy.minus(reference)
    scale = 1.0 if reference is None else beta
    return PairValues(
        {name: scale * scores.margins(image) for image, name in CONDITIONS.items() if image in versions},
        {response: policy.of(ORIGINAL, response) - policy.of(NO_IMAGE, response) for response in (CHOSEN, REJECTED)},
        "nats" if reference is None else "reward",
    )


def summarise_pairs(values: PairValues, ids: Sequence[str], images: Sequence[str], *, resamples: int) -> dict[str, Any]:
    """Returns the measures of all pairs with 95 % bootstrap intervals over images, and what they say, for JSON."""
    table = _count(values, ids, images)
    metrics = _metrics(values)
    is_enough = len(set(images)) >= LEAST_IMAGES
    intervals = bootstrap(table, metrics, resamples=resamples) if is_enough else {}
    sums = table.sums()
    measures = {metric.name: _describe(metric, sums, intervals.get(metric.name)) for metric in metrics}
    margin = intervals.get("margin_real")
    if margin is None or margin.low <= 0 <= margin.high:
        # A share of what may be nothing is no number.
        measures = {name: found for name, found in measures.items() if not name.startswith("surviving_")}
    notes = []
    if not is_enough:
        notes.append(
            f"{len(set(images))} distinct images: too few for intervals, which need {LEAST_IMAGES}; nothing can be "
            "concluded from so few"
        )
    return {"measures": measures, "notes": notes, "verdict": _judge(measures)}


def _count(values: PairValues, ids: Sequence[str], images: Sequence[str]) -> CountTable:
    columns = {f"margin_{name}": margins for name, margins in values.margins.items()}
    columns |= {f"right_{name}": (margins > 0).float() for name, margins in values.margins.items()}
    columns |= {f"gain_{response}": gains for response, gains in values.gains.items()}
    lists = {name: column.tolist() for name, column in columns.items()}
    rows = [
        (name, image, {"n": 1.0, **{column: numbers[place] for column, numbers in lists.items()}})
        for place, (name, image) in enumerate(zip(ids, images, strict=True))
    ]
    return CountTable.build(rows)


def _metrics(values: PairValues) -> list[Metric]:
    others = [name for name in values.margins if name != "real"]
    metrics = [_mean(f"accuracy_{name}", f"right_{name}", "%", 100) for name in values.margins]
    metrics += [_difference(f"lost_{name}", "right_real", f"right_{name}", "points") for name in others]
    metrics += [_mean(f"margin_{name}", f"margin_{name}", values.unit) for name in values.margins]
    metrics += [
        Metric(f"surviving_{name}", _share(f"margin_{name}", "margin_real"), ("n",), "neither", "%", 1)
        for name in others
    ]
    metrics += [_mean(f"gain_{response}", f"gain_{response}", "nats") for response in values.gains]
    return metrics


def _mean(name: str, column: str, unit: str, scale: float = 1.0) -> Metric:
    return Metric(name, lambda sums: scale * divide(sums[column], sums["n"]), ("n",), "neither", unit, 3)


def _difference(name: str, first: str, second: str, unit: str) -> Metric:
    return Metric(name, lambda sums: 100 * divide(sums[first] - sums[second], sums["n"]), ("n",), "neither", unit, 3)


def _share(part: str, whole: str) -> Callable[[Sums], Values]:
    return lambda sums: 100 * divide(sums[part], sums[whole])


def _describe(metric: Metric, sums: Sums, interval: Interval | None) -> dict[str, Any]:
    return {
        "label": label(metric.name),
        "unit": metric.unit,
        "value": float(metric.compute(sums)[0]),
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "n": int(sums["n"][0]),
    }


def label(name: str) -> str:
    """Returns what a measure is called in front of readers."""
    kind, _, which = name.partition("_")
    image = IMAGES.get(which, "")
    return {
        "accuracy": f"pair accuracy, {image}",
        "lost": f"accuracy lost with {image}",
        "margin": f"margin, {image}",
        "surviving": f"share of the margin that survives with {image}",
        "gain": f"log π({which} | image) − log π({which} | no image)",
    }[kind]


def _judge(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the numbers say: whether the preference depends on the image (None: cannot be told), in words."""
    accuracy = measures["accuracy_real"]
    lost, name = next((measures[f"lost_{c}"], c) for c in ("other", "none") if f"lost_{c}" in measures)
    if accuracy["low"] is None:
        return {"depends": None, "text": "There are too few pairs to say whether the preference depends on the image."}
    right = f"{accuracy['value']:.1f} % [{accuracy['low']:.1f}, {accuracy['high']:.1f}] of pairs"
    if accuracy["low"] <= 50 <= accuracy["high"]:
        text = f"Whether the model prefers chosen to rejected cannot be told: it does on {right}."
        return {"depends": None, "text": text}
    if accuracy["high"] < 50:
        return {"depends": None, "text": f"The model prefers rejected to chosen: it prefers chosen on {right}."}
    said = (
        f"{lost['value']:.1f} points of accuracy [{lost['low']:.1f}, {lost['high']:.1f}] are lost with {IMAGES[name]}"
    )
    if lost["low"] > 0:
        return {"depends": True, "text": f"The preference depends on the image: {said}."}
    if lost["high"] < 0:
        return {"depends": True, "text": f"The preference depends on the image, and errs less without it: {said}."}
    if lost["high"] < SMALL:
        return {"depends": False, "text": f"No sign that the preference depends on the image: {said}."}
    return {"depends": None, "text": f"Whether the preference depends on the image cannot be told: {said}."}
