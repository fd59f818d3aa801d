"""Does a model that was written score a sequence as the one that it was made of?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdpo.data.collate import Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import find_family
from mmdpo.models.weights import CheckpointError
from mmdpo.records import CHOSEN, NO_IMAGE, ORIGINAL, Cell, PreferenceExample
from mmdpo.scoring.probe import TOLERANCES, compare, find_precision, score_alone

CELLS = (Cell(ORIGINAL, CHOSEN), Cell(NO_IMAGE, CHOSEN))
QUESTION = "<image>\nWhat is in the picture, and where does it stand?"
ANSWER = " A red cup and two small dogs are on the wooden table near the window, and it is 3 o'clock in the morning."


def score_sequence(model: Any, processor: Any) -> list[Float[Tensor, "n"]]:
    """Returns the log-probabilities of an answer's tokens after a picture, and without one.

    Raises ValueError for a model that reads images in a way that is not supported.
    """
    family = find_family(model.config)
    # Colours and shapes, from formulas: the same picture on every machine.
    ramp = torch.linspace(0, 255, 224)
    pixels = torch.stack([ramp.expand(224, 224), ramp[:, None].expand(224, 224), (ramp * ramp[:, None]) % 256], dim=-1)
    example = PreferenceExample(
        id="sequence",
        prompt=QUESTION,
        responses={CHOSEN: ANSWER},
        images=(Image.fromarray(pixels.byte().numpy()),),
    )
    collator = Collator(Preparer(Renderer(processor, family), CELLS, {}, seed=0))
    items = [Item(example, 0)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return score_alone(model, collator, items, collator(items))
    finally:
        model.train(was_training)


def check_same(model: Any, found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Raises CheckpointError, with both numbers, where scores differ by more than the model's precision explains."""
    precision = find_precision(model)
    difference = compare(found, expected)
    if not difference.distance <= TOLERANCES[precision]:
        raise CheckpointError(
            f"{what} is not the model that it was made of: of one answer it says log π = {difference.found:.4f}, and "
            f"that says {difference.expected:.4f}, {difference.distance:.2g} nats a token apart, where rounding to "
            f"{precision} explains {TOLERANCES[precision]:g}. It is not written"
        )
