"""Does a model score answers together as it scores each alone? Asked before a run: nothing in its log would show it.

A vision tower whose output depends on the other images of its batch, a text decoder that carries a state along the
row, noise that nobody has switched off: each makes rewards of differences that are none. So two rows are scored as the
run will score them, and each of their answers by a plain forward of its own: one sequence, no padding, no image that
others see too, the attention of the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item, Items
from mmdpo.models.families import Family
from mmdpo.models.seams import attention_of
from mmdpo.records import Cell, image_versions, response_names
from mmdpo.scoring.forward import Scorer, image_arguments
from mmdpo.scoring.logprobs import answer_positions_only, find_suppressed, pick_logprobs

TOLERANCES = {"float32": 1e-3, "tf32": 2e-2, "float16": 5e-2, "bfloat16": 0.25}
"""Root mean square difference over an answer's tokens, in nats, that rounding explains, by precision.

`tf32` is float32 on a GPU, where convolutions are rounded to TF32 unless that is switched off.
"""

ROWS = 2
LOOKED_AT = 64
"""Among so many good rows the first ones with images are taken."""


class ProbeError(ValueError):
    """A model that scores an answer otherwise beside others than alone."""


@dataclass(frozen=True)
class Probe:
    """What a probe has found, or why there was none."""

    rows: str
    """`shared` or `separate`: how the run scores its cells."""
    skipped: str | None = None
    """Why the model was not tried."""
    why_separate: str | None = None
    """Why cells do not share rows, where they were meant to if they can."""
    precision: str | None = None
    tolerance: float | None = None
    """In nats a token, as `distance`."""
    distance: float | None = None
    """Of the answer that differs most: root mean square over its tokens."""

    def to_dict(self) -> dict[str, Any]:
        """Returns what there is to say, for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ScoreDifference:
    """The answer that two ways of scoring differ most about."""

    place: int
    """c · B + b for cell c of example b."""
    distance: float
    """Root mean square over its tokens, in nats."""
    found: float
    """Its log-probability, in nats, as it was found."""
    expected: float
    """The same as it should be."""


def probe(
    scorer: Scorer, collator: Collator, items: Items | Sequence[Item], *, attention: str = "auto", device: Any = "cpu"
) -> tuple[Scorer, Probe]:
    """Returns the scorer that a run should have, and what was found of its model.

    `scorer` knows how rows are scored by the record of families and decoders. With `attention: auto` they are shared
    where the model is found to score them alike, whatever the record says, and separate where it is not. The model
    stays in the mode it is in. Raises ProbeError, with both numbers, where even separate rows differ from plain
    forwards, or shared ones do and `attention` is `shared`.
    """
    chosen = _choose_items(items, collator)
    if not chosen:
        return scorer, Probe("shared" if scorer.shares_prefix else "separate", "every row is faulty")
    batch: Batch = send_to_device(collator(chosen), device)
    cells, precision, why = scorer.collated, find_precision(scorer.model, device), None
    tolerance = TOLERANCES[precision]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        alone = score_alone(scorer.model, collator, chosen, batch, device)
        if attention != "separate" and (why := scorer.family.cannot_share(scorer.model)) is None:
            decoder: Any = scorer.model.get_decoder()  # type: ignore[operator]
            before = attention_of(decoder)
            try:
                shared = replace(scorer, shares_prefix=True)
                difference = compare(split_answers(shared(batch, cells)), alone)
                if difference.distance <= tolerance:
                    return shared, Probe("shared", None, None, precision, tolerance, difference.distance)
                why = _describe(difference, cells, chosen, with_source=False)  # a card holds no paths
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # whatever a forward raises that knows nothing of shared rows
                problem = next(iter(str(error).splitlines()), "")[:200]
                why = f"its forward cannot read shared rows ({type(error).__name__}: {problem})"
            decoder.set_attn_implementation(before)
        if attention == "shared":
            raise ProbeError(f"attention: shared does not work for this model: {why}; use attention: auto or separate")
        separate = replace(scorer, shares_prefix=False)
        difference = compare(split_answers(separate(batch, cells)), alone)
    if not difference.distance <= tolerance:
        raise ProbeError(
            f"{_describe(difference, cells, chosen)}. Rounding to {precision} explains {tolerance:g}: what "
            f"{type(scorer.model).__name__} says of an answer depends on what else is in its batch, and rewards would "
            "measure that. Take another model, or another version of transformers; probe: false trains all the same"
        )
    return separate, Probe("separate", None, why, precision, tolerance, difference.distance)


def score_alone(
    model: nn.Module, collator: Collator, items: Sequence[Item], batch: Batch, device: Any = "cpu"
) -> list[Float[Tensor, "n"]]:
    """Returns the log-probabilities of the tokens of every answer, at c · B + b, by one plain forward for each.

    `batch` is what the collator makes of the items; its answers, which may be cut, are scored.
    """
    cells = collator.prepare.cells
    responses = response_names(cells)
    contexts = {
        (version, place): send_to_device(_collate_alone(collator, item, version, cells), device)
        for version in image_versions(cells)
        for place, item in enumerate(items)
    }
    family = collator.prepare.renderer.family
    scored = []
    for cell in cells:
        for place in range(len(items)):
            row = responses.index(cell.response) * len(items) + place
            answer = torch.as_tensor(batch["answer_ids"][row][batch["answer_mask"][row]])
            scored.append(_score_plainly(model, family, contexts[cell.image, place], answer))
    return scored


def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> ScoreDifference:
    """Returns the answer that differs most; a value that is no number differs from every other."""
    worst: ScoreDifference | None = None
    for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        apart = torch.where(ours == theirs, 0.0, ours - theirs)  # ∞ is equal to itself
        distance = float(apart.square().mean().sqrt())
        if worst is None or not distance <= worst.distance:
            worst = ScoreDifference(place, distance, float(ours.sum()), float(theirs.sum()))
    assert worst is not None, "an objective has a cell"
    return worst


def split_answers(scored: Any) -> list[Float[Tensor, "n"]]:
    """Returns the log-probabilities of the tokens of every answer of `CellLogprobs`, at c · B + b."""
    return [scored.per_token[scored.cell_of == place] for place in range(scored.logprobs.numel())]


def find_precision(model: nn.Module, device: Any = "cpu") -> str:
    """Returns the key of `TOLERANCES` for what a model computes in: of mixed weights the coarsest."""
    kind = torch.device(device).type
    if getattr(model, "is_quantized", False):
        return "bfloat16"
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.is_autocast_enabled(kind):
        dtypes.add(torch.get_autocast_dtype(kind))
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
    name = str(coarsest).removeprefix("torch.")
    if name in ("float32", "float64"):
        return "float32" if kind == "cpu" else "tf32"
    return name if name in TOLERANCES else "bfloat16"


def _choose_items(items: Items | Sequence[Item], collator: Collator) -> list[Item]:
    """Returns the first rows with images, the first rows where there are too few; none where all are faulty."""
    good: list[Item] = []
    for place in range(len(items)):
        try:
            collator([items[place]])
            good.append(items[place])
        except Exception:
            continue  # the check of every row names it
        if len(good) == LOOKED_AT or sum(bool(item.example.images) for item in good) == ROWS:
            break
    return sorted(good, key=lambda item: not item.example.images)[:ROWS]


def _collate_alone(collator: Collator, item: Item, version: str, cells: tuple[Cell, ...]) -> Batch:
    """Returns a batch of one context, uncut: what the model's processor makes of one prompt."""
    own = tuple(cell for cell in cells if cell.image == version)
    prepare = replace(collator.prepare, cells=own)
    alone = replace(collator, prepare=prepare, max_length=None, context_length=None, weight_columns=())
    return alone([item])


def _score_plainly(model: Any, family: Family, batch: Batch, answer: Tensor) -> Float[Tensor, "n"]:
    """Returns log π of the tokens of an answer after the one context of a batch."""
    device = batch["index"].device
    prompt = torch.as_tensor(batch["prompt_ids"][0][batch["prompt_mask"][0]])
    ids = torch.cat([prompt, answer])[None].to(device)
    types = {}
    for name, values in batch["token_types"].items():
        of_answer = torch.full_like(answer, family.answer_token_types.get(name, 0))
        types[name] = torch.cat([torch.as_tensor(values[0][: len(prompt)]), of_answer])[None].to(device)
    predicts = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1, device=device)
    images = image_arguments(batch, family, device)
    with answer_positions_only(model.get_output_embeddings(), predicts):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **types, **images)
    suppressed = find_suppressed(getattr(model, "generation_config", None))
    return pick_logprobs(output.logits[0], answer.to(device), suppressed)


def _describe(
    difference: ScoreDifference, cells: Sequence[Cell], chosen: Sequence[Item], *, with_source: bool = True
) -> str:
    cell, item = cells[difference.place // len(chosen)], chosen[difference.place % len(chosen)]
    source = (with_source and item.example.source) or f"row {item.index + 1}"
    return (
        f"log π of cell {cell} of {source} is {difference.found:.4f} beside the others, as in training, and "
        f"{difference.expected:.4f} by a plain forward of it alone: {difference.distance:.2g} nats a token apart"
    )
