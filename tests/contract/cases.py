"""What the contract tests of model families compare: small pairs, and the ways in which a model scores them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from plain_forwards import ask, gradients, logprobs_alone, read_all_alone
from tiny_models import MODELS, TinyModel

from mmdpo.corruption import load
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import Opened, PreparedExample, Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import find_family
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.scoring.forward import CellLogprobs, Scorer
from mmdpo.scoring.plan import grow_trees

MDPO = (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED), Cell(CORRUPTED, CHOSEN))
TEXT_ALONE = (Cell(NO_IMAGE, CHOSEN), Cell(NO_IMAGE, REJECTED))
CELLS = MDPO + TEXT_ALONE

_SEPARATE_ALONE = ("qwen3_5", "qwen3_5_moe", "llama4", "lfm2_vl")
SEPARATE_ALONE = tuple(name for name in _SEPARATE_ALONE if name in MODELS)
"""Models whose answers cannot share a row: linear attention carries a state along it, convolutions reach along it,
chunks are counted from its beginning."""

WAYS = ("separate", "shared", "packed")
"""Each cell a row of its own; all trees in one row; trees in several rows with padding, one of them over the budget."""

CASES = [(name, way) for name in MODELS for way in WAYS if way == "separate" or name not in SEPARATE_ALONE]


@dataclass(frozen=True)
class Case:
    """A model, and the way in which it is scored."""

    tiny: TinyModel
    """As it was built: plain forwards run on it."""
    way: str
    model: Any
    """A copy of the same weights, which the scorer may prepare for itself."""

    @property
    def scored(self) -> TinyModel:
        return replace(self.tiny, model=self.model)

    def scorer(self, batch: Batch, cells: tuple[Cell, ...], *, collated: tuple[Cell, ...] = ()) -> Scorer:
        made_for = collated or cells
        options: dict[str, Any] = dict(shares_prefix=self.way != "separate")
        if self.way == "packed":
            trees = grow_trees(batch, cells, made_for, share=True)
            options["max_tokens_per_row"] = max(tree.length for tree in trees) - 1
        return Scorer(self.model, find_family(self.model.config), made_for, **options)

    def score(
        self, batch: Batch, cells: tuple[Cell, ...], *, collated: tuple[Cell, ...] = (), **options: Any
    ) -> CellLogprobs:
        return self.scorer(batch, cells, collated=collated)(batch, cells, **options)


@cache
def make_case(name: str, way: str) -> Case:
    tiny = MODELS[name]()
    return Case(tiny, way, copy.deepcopy(tiny.model))


def split_cells(scored: CellLogprobs) -> list[torch.Tensor]:
    """Returns the log-probabilities of the tokens of every answer, at c · B + b for cell c of example b."""
    return [scored.per_token[scored.cell_of == place] for place in range(scored.logprobs.numel())]


# -- the data ---------------------------------------------------------------------------------------------------------


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture with coarse shapes in it, so that crops and sizes differ in what the vision tower sees."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.NEAREST)


def conversation(tiny: TinyModel, text: str, chosen: str, rejected: str, *images: Image.Image) -> PreferenceExample:
    """An example as chat turns where the processor has a template, and as plain text where it has none."""
    if not tiny.processor.chat_template:
        return plain(text, chosen, rejected, *images)
    answers = {CHOSEN: chosen, REJECTED: rejected}
    return PreferenceExample(id=text, prompt=ask(text, len(images)), responses=answers, images=images)


def plain(text: str, chosen: str, rejected: str, *images: Image.Image) -> PreferenceExample:
    prompt = f"USER: {'<image>' * len(images)}\n{text} ASSISTANT:" if images else f"USER: {text} ASSISTANT:"
    answers = {CHOSEN: f" {chosen}", REJECTED: f" {rejected}"}
    return PreferenceExample(id=text, prompt=prompt, responses=answers, images=images)


def two_pairs(tiny: TinyModel) -> list[PreferenceExample]:
    """Prompts, answers and pictures of different lengths and shapes; one row brings its own corrupted picture.

    One answer is longer than the first prompt with its images.
    """
    longer = "Two people walk along the street, under a blue sky, and the dog is in it with a useful and curious cup."
    second = plain("Describe the scene.", "The sky is blue.", longer, picture(2, 18, 33))
    return [
        conversation(tiny, "What is in the picture?", "There is a red cup.", "A dog.", picture(1, 40, 20)),
        replace(second, rejected_images=(picture(3, 30, 18),)),
    ]


def pairs_of_one_picture(tiny: TinyModel) -> list[PreferenceExample]:
    """Three questions about a picture, one of them twice, with one answer in common; and a question about another."""
    image = picture(1, 40, 20)
    return [
        conversation(tiny, "What is in the picture?", "There is a red cup.", "A dog.", image),
        conversation(tiny, "What is on the table? Describe it.", "A small cup.", "The sky is blue.", image),
        conversation(tiny, "What is in the picture?", "A dog.", "Two people walk along the street.", image),
        conversation(tiny, "What is on the table?", "A cup.", "There are people.", image),
        conversation(tiny, "What is in the picture?", "The street.", "A dog.", picture(2, 18, 33)),
    ]


def prepare(
    tiny: TinyModel, examples: list[PreferenceExample], cells: tuple[Cell, ...], **options: Any
) -> tuple[list[PreparedExample], Batch]:
    renderer = Renderer(tiny.processor, find_family(tiny.model.config))
    preparer, opened = Preparer(renderer, cells, {CORRUPTED: load("crop_0_20")}, seed=0, **options), Opened()
    prepared = [preparer(Item(example, place), opened) for place, example in enumerate(examples)]
    return prepared, Collator(preparer).collate(prepared)


@cache
def prepare_pairs_of_one_picture(tiny: TinyModel) -> tuple[list[PreparedExample], Batch]:
    return prepare(tiny, pairs_of_one_picture(tiny), CELLS, corruption_draw="picture")


@cache
def prepare_pairs(tiny: TinyModel, cells: tuple[Cell, ...]) -> tuple[list[PreparedExample], Batch]:
    return prepare(tiny, two_pairs(tiny), cells)


# -- plain forwards of them, which are the same whatever the way that they are compared with --------------------------


@dataclass(frozen=True)
class Plain:
    """What plain forwards say of pairs."""

    logprobs: list[torch.Tensor]
    """Of the tokens of every answer, at c · B + b for cell c of example b."""
    gradients: dict[str, torch.Tensor]


def score_plainly(tiny: TinyModel, prepared: list[PreparedExample], cells: tuple[Cell, ...]) -> Plain:
    found = logprobs_alone(tiny, read_all_alone(tiny, prepared, cells))
    return Plain([tokens.detach() for tokens in found], gradients(tiny, found))


@cache
def plain_pairs(tiny: TinyModel, cells: tuple[Cell, ...]) -> Plain:
    return score_plainly(tiny, prepare_pairs(tiny, cells)[0], cells)


@cache
def plain_pairs_of_one_picture(tiny: TinyModel) -> Plain:
    return score_plainly(tiny, prepare_pairs_of_one_picture(tiny)[0], CELLS)


@cache
def plain_logprobs(tiny: TinyModel, cells: tuple[Cell, ...]) -> list[torch.Tensor]:
    """Returns the log-probabilities alone, for less."""
    with torch.no_grad():
        return logprobs_alone(tiny, read_all_alone(tiny, prepare_pairs(tiny, cells)[0], cells))


# -- the comparison ---------------------------------------------------------------------------------------------------


def assert_same_logprobs(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [len(tokens) for tokens in found] == [len(tokens) for tokens in expected]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-5, atol=2e-6)


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], within: float = 1e-5
) -> None:
    """Compares the gradient of every parameter by its norm; one that is next to nothing, by the largest."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        scale = max(float(gradient.norm()), 0.01 * largest)
        assert float((found[name] - gradient).norm()) <= within * scale, name
