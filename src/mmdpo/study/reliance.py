"""Does a preference depend on the image? Rewards and log-probabilities under the right and under another image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmdpo.corruption import load
from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.examples import CHOSEN, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.families import find_family
from mmdpo.scoring.forward import Scorer

OTHER = "random_image"
CELLS = tuple(Cell(image, response) for image in (ORIGINAL, OTHER) for response in (CHOSEN, REJECTED))
"""Chosen and rejected under the example's own image, then under another example's."""


@dataclass(frozen=True)
class PairLogprobs:
    """What one model says of every pair, in nats; rows are examples."""

    chosen: Float[Tensor, "N"]
    rejected: Float[Tensor, "N"]
    chosen_other: Float[Tensor, "N"]
    rejected_other: Float[Tensor, "N"]


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


def score_pairs(
    model: nn.Module, processor: Any, examples: Sequence[PreferenceExample], *, seed: int, batch_size: int = 64
) -> PairLogprobs:
    """Scores chosen and rejected answers under the right and under another example's image, without gradient."""
    family = find_family(model.config)
    collator = Collator(Preparer(Renderer(processor, family), CELLS, {OTHER: load(OTHER)}, seed))
    items = Items(examples, seed=seed, draw_others=True)
    scorer = Scorer(model, family, CELLS, shares_prefix=family.why_separate(model) is None)
    was_training = model.training
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), batch_size):
            batch = collator([items[i] for i in range(start, min(start + batch_size, len(items)))])
            parts.append(scorer(batch, CELLS).logprobs)
    model.train(was_training)
    return PairLogprobs(*torch.cat(parts, dim=1))


def measure_reliance(policy: PairLogprobs, reference: PairLogprobs) -> Reliance:
    """Compares a policy with its reference on the same pairs. β only scales rewards, so that it plays no part."""
    ratio = {
        field.name: getattr(policy, field.name) - getattr(reference, field.name)
        for field in dataclasses.fields(PairLogprobs)
    }
    return Reliance(
        delta_logp_chosen=float(ratio["chosen"].mean()),
        accuracy_real=_per_cent(ratio["chosen"] > ratio["rejected"]),
        accuracy_other=_per_cent(ratio["chosen_other"] > ratio["rejected_other"]),
        image_gain=float((policy.chosen - policy.chosen_other).mean()),
    )


def _per_cent(right: Bool[Tensor, "N"]) -> float:
    return 100 * float(right.float().mean())
