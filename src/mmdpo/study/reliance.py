"""Does a preference depend on the image? Log-probabilities of pairs under the right image, others, and none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmdpo.corruption import Corruption, load
from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import find_family
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import probe
from mmdpo.training import build

OTHER = "random_image"
"""Image version: another example's."""
WITH_ANOTHER = (ORIGINAL, OTHER)
"""The image versions that `measure_reliance` compares."""


@dataclass(frozen=True)
class PairScores:
    """What one model says of pairs: sums over answer tokens, in nats, by cell; entries are examples."""

    by_cell: Mapping[Cell, Float[Tensor, "N"]]

    def of(self, image: str, response: str) -> Float[Tensor, "N"]:
        """Returns log π(response | image) of every pair."""
        return self.by_cell[Cell(image, response)]

    def minus(self, reference: PairScores) -> PairScores:
        """Returns the log-ratios of policy and reference, the reference under the same image as the policy."""
        return PairScores({cell: values - reference.by_cell[cell] for cell, values in self.by_cell.items()})

    def margins(self, image: str) -> Float[Tensor, "N"]:
        """Returns chosen − rejected under an image; of log-ratios it is the reward margin divided by β."""
        return self.of(image, CHOSEN) - self.of(image, REJECTED)


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


def pair_cells(images: Sequence[str]) -> tuple[Cell, ...]:
    """Returns the chosen and the rejected answer under each of the image versions."""
    return tuple(Cell(image, response) for image in images for response in (CHOSEN, REJECTED))


def make_collator(
    processor: Any,
    config: Any,
    images: Sequence[str],
    *,
    seed: int,
    corruption: Corruption | None = None,
    max_length: int | None = None,
) -> Collator:
    """Returns what makes batches of pairs under these image versions; `corruption` makes the version `corrupted`."""
    named = {image: load(image) for image in images if image not in (ORIGINAL, NO_IMAGE, CORRUPTED)}
    if CORRUPTED in images:
        named[CORRUPTED] = load("crop_0_20") if corruption is None else corruption
    prepare = Preparer(Renderer(processor, find_family(config)), pair_cells(images), named, seed)
    return Collator(prepare, max_length, (), build.find_context_length(config))


def score_pairs(
    model: nn.Module,
    processor: Any,
    examples: Sequence[PreferenceExample],
    *,
    seed: int,
    batch_size: int = 64,
    images: Sequence[str] = WITH_ANOTHER,
    corruption: Corruption | None = None,
    max_length: int | None = None,
) -> PairScores:
    """Scores chosen and rejected answers under every image version, each batch in one forward without gradient.

    Raises RowError, naming the row, for an example that has no image where a version needs one.
    """
    config: Any = model.config
    collator = make_collator(processor, config, images, seed=seed, corruption=corruption, max_length=max_length)
    return score_batches(model, collator, examples, seed=seed, batch_size=batch_size)


def score_batches(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[PreferenceExample],
    *,
    seed: int,
    batch_size: int,
    try_first: bool = True,
    known: Float[Tensor, "C K"] | None = None,
    keep: Callable[[int, Float[Tensor, "C B"]], None] = lambda start, scores: None,
) -> PairScores:
    """Scores the cells that a collator makes batches for; see `score_pairs`.

    With `try_first` the model is probed on two of the examples. Raises ProbeError for one that scores an answer
    otherwise beside others than alone. The first K examples are not scored again where `known` has their scores; `keep`
    is handed those of each batch, with the place of its first example.
    """
    family, cells = collator.prepare.renderer.family, collator.prepare.cells
    items = Items(
        examples, seed=seed, draw_others=any(c.needs_other_image for c in collator.prepare.corruptions.values())
    )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    if try_first:
        scorer, _ = probe(Scorer(model, family, cells), collator, items, device=device)
    else:
        scorer = Scorer(model, family, cells, shares_prefix=family.why_separate(model) is None)
    parts = [] if known is None else [known]
    with torch.inference_mode():
        for start in range(0 if known is None else known.shape[1], len(items), batch_size):
            batch = collator([items[i] for i in range(start, min(start + batch_size, len(items)))])
            parts.append(scorer(send_to_device(batch, device), cells).logprobs.cpu())
            keep(start, parts[-1])
    model.train(was_training)
    return PairScores(dict(zip(cells, torch.cat(parts, dim=1), strict=True)))


def measure_reliance(policy: PairScores, reference: PairScores) -> Reliance:
    """Compares a policy with its reference on the same pairs. β only scales rewards, so that it plays no part."""
    ratios = policy.minus(reference)
    return Reliance(
        delta_logp_chosen=float(ratios.of(ORIGINAL, CHOSEN).mean()),
        accuracy_real=measure_accuracy(ratios, ORIGINAL),
        accuracy_other=measure_accuracy(ratios, OTHER),
        image_gain=float((policy.of(ORIGINAL, CHOSEN) - policy.of(OTHER, CHOSEN)).mean()),
    )


def measure_accuracy(ratios: PairScores, image: str) -> float:
    """Returns the per cent of pairs whose chosen answer has the higher reward under an image."""
    right: Bool[Tensor, "N"] = ratios.of(image, CHOSEN) > ratios.of(image, REJECTED)
    return 100 * float(right.float().mean())
