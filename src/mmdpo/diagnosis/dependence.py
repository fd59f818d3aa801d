"""How far a preference depends on the image: accuracies and margins under each image version, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmdpo.benchmarks.definitions import Metric, divide
from mmdpo.benchmarks.stats import CountTable, bootstrap
from mmdpo.diagnosis.pair_scores import OTHER, PairScores
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED

CONDITIONS: Mapping[str, str] = {ORIGINAL: "real", CORRUPTED: "corrupted", OTHER: "other", NO_IMAGE: "none"}
"""Image version → its name in a diagnosis."""
IMAGES: Mapping[str, str] = {
    "real": "the real image",
    "corrupted": "the corrupted image",
    "other": "another example's image",
    "none": "no image",
}
LEAST_GROUPS = 10
"""An interval needs so many distinct images, or prompts: fewer say too little for a bootstrap."""
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
    """Returns the measures of all pairs with 95 % bootstrap intervals over images, and a verdict, for JSON."""
    table, labelled = _count(values, ids, images), _label_metrics(values)
    is_enough = len(set(images)) >= LEAST_GROUPS
    intervals = bootstrap(table, list(labelled), resamples=resamples) if is_enough else {}
    margin, sums = intervals.get("margin_real"), table.sums()
    has_margin = margin is not None and not margin.low <= 0 <= margin.high
    measures = {
        metric.name: {
            "label": label,
            "unit": metric.unit,
            "value": float(metric.compute(sums)[0]),
            "low": intervals[metric.name].low if metric.name in intervals else None,
            "high": intervals[metric.name].high if metric.name in intervals else None,
            "n": len(ids),
        }
        for metric, label in labelled.items()
        # A share of a margin that may be 0 means nothing.
        if has_margin or not metric.name.startswith("surviving_")
    }
    few = f"{len(set(images))} distinct images: too few for intervals, which need {LEAST_GROUPS}; no conclusion follows"
    return {"measures": measures, "notes": [] if is_enough else [few], "verdict": _judge(measures)}


def ratio(name: str, part: str, whole: str = "n", *, unit: str = "%", scale: float = 100.0) -> Metric:
    """Returns the metric scale · Σ part / Σ whole of counts, as `benchmarks.stats` resamples it."""
    return Metric(name, lambda sums: scale * divide(sums[part], sums[whole]), ("n",), "neither", unit, 3)


def _count(values: PairValues, ids: Sequence[str], images: Sequence[str]) -> CountTable:
    """Returns what the metrics add up: a row for each pair."""
    right = {name: (margins > 0).float() for name, margins in values.margins.items()}
    columns = {f"margin_{name}": margins for name, margins in values.margins.items()}
    columns |= {f"right_{name}": of for name, of in right.items()}
    columns |= {f"lost_{name}": right["real"] - of for name, of in right.items()}
    columns |= {f"gain_{response}": gains for response, gains in values.gains.items()}
    lists = {name: column.tolist() for name, column in columns.items()}
    return CountTable.build(
        [
            (name, image, {"n": 1.0, **{column: numbers[place] for column, numbers in lists.items()}})
            for place, (name, image) in enumerate(zip(ids, images, strict=True))
        ]
    )


def _label_metrics(values: PairValues) -> dict[Metric, str]:
    """Returns each metric with what it is called in front of readers."""
    images = {name: IMAGES[name] for name in values.margins}
    others = {name: image for name, image in images.items() if name != "real"}
    of_margins: dict[str, Any] = {"unit": values.unit, "scale": 1}
    return {
        **{ratio(f"accuracy_{n}", f"right_{n}"): f"pair accuracy, {image}" for n, image in images.items()},
        **{ratio(f"lost_{n}", f"lost_{n}", unit="points"): f"accuracy lost with {i}" for n, i in others.items()},
        **{ratio(f"margin_{n}", f"margin_{n}", **of_margins): f"margin, {image}" for n, image in images.items()},
        **{
            ratio(f"surviving_{n}", f"margin_{n}", "margin_real"): f"share of the margin that survives with {image}"
            for n, image in others.items()
        },
        **{
            ratio(f"gain_{r}", f"gain_{r}", unit="nats", scale=1): f"log π({r} | image) − log π({r} | no image)"
            for r in values.gains
        },
    }


def _judge(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the verdict: whether the preference depends on the image (None: cannot be told), and why, in words."""
    accuracy = measures["accuracy_real"]
    lost, name = next((measures[f"lost_{c}"], c) for c in ("other", "none") if f"lost_{c}" in measures)
    if accuracy["low"] is None:
        return {"depends": None, "text": "There are too few pairs to say whether the preference depends on the image."}
    right = f"{accuracy['value']:.1f} % [{accuracy['low']:.1f}, {accuracy['high']:.1f}] of pairs"
    if accuracy["low"] <= 50 <= accuracy["high"]:
        text = f"It cannot be told whether the model prefers chosen to rejected: it does on {right}."
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
    return {"depends": None, "text": f"It cannot be told whether the preference depends on the image: {said}."}
