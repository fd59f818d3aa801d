"""How far a preference depends on the image: accuracies and margins under each image version, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmdpo.benchmarks.definitions import Metric
from mmdpo.benchmarks.stats import note_few
from mmdpo.diagnosis.estimates import estimate, ratio
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
SMALL = 5.0
"""Points of accuracy below which a dependence would be called small."""


@dataclass(frozen=True)
class PairValues:
    """What one model prefers, pair by pair; entries are examples."""

    margins: Mapping[str, Float[Tensor, "N"]]
    """chosen − rejected by condition, in `unit`: rewards with a reference, else log-probabilities in nats."""
    gains: Mapping[str, Float[Tensor, "N"]]
    """log π(response | image) − log π(response | no image) by response, in nats."""
    unit: str


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


def summarise_pairs(
    values: PairValues, ids: Sequence[str], images: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Any]:
    """Returns the measures of all pairs with 95 % bootstrap intervals over images, and a verdict, for JSON."""
    columns, labelled = _list_measures(values)
    lists = {"n": [1.0] * len(ids)} | {name: column.tolist() for name, column in columns.items()}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    measures = estimate(list(zip(ids, images, rows, strict=True)), labelled, resamples, seed)
    margin = measures["margin_real"]
    if margin["low"] is None or margin["low"] <= 0 <= margin["high"]:  # a share of a margin that may be 0 means nothing
        measures = {name: of for name, of in measures.items() if not name.startswith("surviving_")}
    few = [f"{note}; no conclusion follows" for note in note_few(images, "distinct images")]
    return {"measures": measures, "notes": few, "verdict": _judge(measures)}


def _list_measures(values: PairValues) -> tuple[dict[str, Float[Tensor, "N"]], dict[Metric, str]]:
    """Returns what is added up of each pair, by name, and each metric of these sums with its name for readers."""
    columns: dict[str, Float[Tensor, "N"]] = {}
    labelled: dict[Metric, str] = {}

    def add(name: str, column: Float[Tensor, "N"], label: str, unit: str = "%", scale: float = 100.0) -> None:
        columns[name] = column
        labelled[ratio(name, name, unit=unit, scale=scale)] = label

    right = {name: (margins > 0).float() for name, margins in values.margins.items()}
    others = [name for name in right if name != "real"]
    for name in right:
        add(f"accuracy_{name}", right[name], f"pair accuracy, {IMAGES[name]}")
    for name in others:
        add(f"lost_{name}", right["real"] - right[name], f"accuracy lost with {IMAGES[name]}", "points")
    for name, margins in values.margins.items():
        add(f"margin_{name}", margins, f"margin, {IMAGES[name]}", values.unit, 1)
    for name in others:
        survives = ratio(f"surviving_{name}", f"margin_{name}", "margin_real")
        labelled[survives] = f"share of the margin that survives with {IMAGES[name]}"
    for response, gains in values.gains.items():
        add(f"gain_{response}", gains, f"log π({response} | image) − log π({response} | no image)", "nats", 1)
    return columns, labelled


def _judge(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the verdict: whether the preference depends on the image (None: cannot be told), and why, in words."""
    accuracy = measures["accuracy_real"]
    lost, name = next((measures[f"lost_{c}"], c) for c in ("other", "none") if f"lost_{c}" in measures)
    depends: bool | None = None
    if accuracy["low"] is None:
        text = "There are too few pairs to say whether the preference depends on the image."
        return {"depends": depends, "text": text}
    right = f"{accuracy['value']:.1f} % [{accuracy['low']:.1f}, {accuracy['high']:.1f}] of pairs"
    said = (
        f"{lost['value']:.1f} points of accuracy [{lost['low']:.1f}, {lost['high']:.1f}] are lost with {IMAGES[name]}"
    )
    margin = measures["margin_real"]
    if margin["value"] == margin["low"] == margin["high"] == 0:
        text = (
            "The model prefers neither answer: all margins are 0. It scores every pair as its reference does, as an "
            "adapter does that was not trained."
        )
    elif accuracy["low"] <= 50 <= accuracy["high"]:
        text = f"It cannot be told whether the model prefers chosen to rejected: it does on {right}."
    elif accuracy["high"] < 50:
        text = f"The model prefers rejected to chosen: it prefers chosen on {right}."
    elif lost["low"] > 0:
        depends, text = True, f"The preference depends on the image: {said}."
    elif lost["high"] < 0:
        depends, text = True, f"The preference depends on the image, and errs less without it: {said}."
    elif lost["high"] < SMALL:
        depends, text = False, f"No sign that the preference depends on the image: {said}."
    else:
        text = f"It cannot be told whether the preference depends on the image: {said}."
    return {"depends": depends, "text": text}
