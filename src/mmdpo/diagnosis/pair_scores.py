"""Log-probabilities of preference pairs under the right image, others and none, and the file that keeps them.

The file has a head that says what scored (weights, processor, precision, batches), then a line for each row of the
dataset: a digest of all that was scored of it, and its log-probabilities. A scoring that was killed resumes from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.corruption import Corruption, load
from mmdpo.data.collate import Collator
from mmdpo.data.items import Item, Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.data.validate import PAIR
from mmdpo.files import write_whole
from mmdpo.models.families import find_family
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, Comparisons, PreferenceExample
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import probe, split_answers
from mmdpo.training.assembly import find_context_length
from mmdpo.training.durable.resume import RunFolderError

OTHER = "random_image"
"""Image version: another example's."""


Tokens: TypeAlias = "Sequence[Sequence[Float[Tensor, '_']]]"
"""Log-probabilities of the tokens of each answer, in nats, by example and cell."""


@dataclass(frozen=True)
class Scored:
    """What a model says of N consecutive examples under the C cells of a collator, in nats."""

    sums: Float[Tensor, "C N"]
    tokens: Tokens = ()
    """Empty unless they were asked for."""


@dataclass(frozen=True)
class PairScores:
    """What one model says of pairs: sums over answer tokens, in nats, by cell; entries are examples."""

    by_cell: Mapping[Cell, Float[Tensor, "N"]]
    tokens: Tokens = ()
    """Of every answer's tokens; empty unless they were asked for."""

    def of(self, image: str, response: str) -> Float[Tensor, "N"]:
        """Returns log π(response | image) of every pair."""
        return self.by_cell[Cell(image, response)]

    def minus(self, reference: PairScores) -> PairScores:
        """Returns the log-ratios of policy and reference, the reference under the same image as the policy."""
        return PairScores({cell: values - reference.by_cell[cell] for cell, values in self.by_cell.items()})

    def margins(self, image: str) -> Float[Tensor, "N"]:
        """Returns chosen − rejected under an image; of log-ratios it is the reward margin divided by β."""
        return self.of(image, CHOSEN) - self.of(image, REJECTED)


def make_pair_collator(
    processor: Any,
    config: Any,
    images: Sequence[str],
    *,
    seed: int,
    corruption: Corruption | None = None,
    max_length: int | None = None,
    responses: Sequence[str] = (CHOSEN, REJECTED),
    comparisons: Comparisons = PAIR,
) -> Collator:
    """Returns what makes batches of the responses under these image versions.

    `corruption` makes the version `corrupted`; crop_0_20 unless given. `comparisons` are of cells that must differ.
    """
    cells = tuple(Cell(image, response) for image in images for response in responses)
    named = {image: load(image) for image in images if image not in (ORIGINAL, NO_IMAGE, CORRUPTED)}
    if CORRUPTED in images:
        named[CORRUPTED] = corruption or load("crop_0_20")
    prepare = Preparer(Renderer(processor, find_family(config)), cells, named, seed, comparisons=comparisons)
    return Collator(prepare, max_length, (), find_context_length(config))


def make_items(examples: Sequence[PreferenceExample], collator: Collator) -> Items:
    """Returns examples as the collator takes them, with another example's image where a version shows one.

    Raises ValueError where that is asked of a single example.
    """
    prepare = collator.prepare
    draw_others = any(corruption.needs_other_image for corruption in prepare.corruptions.values())
    return Items(examples, seed=prepare.seed, draw_others=draw_others)


def make_scorer(
    model: nn.Module, collator: Collator, items: Items | Sequence[Item], *, try_first: bool = True
) -> Scorer:
    """Returns what scores the cells of a collator; with `try_first` the model is probed on two of the items.

    Raises ProbeError for a model that scores an answer differently beside others than alone.
    """
    family, cells = collator.prepare.renderer.family, collator.prepare.cells
    if not try_first:
        return Scorer(model, family, cells, shares_prefix=family.why_separate(model) is None)
    return probe(Scorer(model, family, cells), collator, items, device=next(model.parameters()).device)[0]


def score_items(scorer: Scorer, collator: Collator, items: Sequence[Item], *, with_tokens: bool = False) -> Scored:
    """Scores the cells of a collator in one forward without gradient; the model is in evaluation mode."""
    batch = send_to_device(collator(items), next(scorer.model.parameters()).device)
    with torch.inference_mode():
        found = scorer(batch, collator.prepare.cells)
    if not with_tokens:
        return Scored(found.logprobs.cpu())
    by_cell = [tokens.cpu() for tokens in split_answers(found)]
    return Scored(found.logprobs.cpu(), [by_cell[place :: len(items)] for place in range(len(items))])


def score_pairs(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[PreferenceExample],
    *,
    batch_size: int = 64,
    try_first: bool = True,
    with_tokens: bool = False,
    known: Scored | None = None,
    keep: Callable[[int, Scored], None] = lambda start, scores: None,
) -> PairScores:
    """Scores the cells of a collator, each batch in one forward without gradient.

    With `try_first` the model is probed on two of the examples, and `with_tokens` log-probabilities of single tokens
    are kept. The first examples are not scored again where `known` has their scores; `keep` receives those of each
    batch, with the place of its first example. Raises ProbeError as `make_scorer`, and RowError, which names the row,
    for an example that has no image where a version needs one.
    """
    cells, items, was_training = collator.prepare.cells, make_items(examples, collator), model.training
    model.eval()
    scorer = make_scorer(model, collator, items, try_first=try_first)
    parts = [] if known is None else [known]
    for start in range(0 if known is None else known.sums.shape[1], len(items), batch_size):
        batch = [items[place] for place in range(start, min(start + batch_size, len(items)))]
        parts.append(score_items(scorer, collator, batch, with_tokens=with_tokens))
        keep(start, parts[-1])
    model.train(was_training)
    sums = torch.cat([part.sums for part in parts], dim=1)
    return PairScores(dict(zip(cells, sums, strict=True)), [of_pair for part in parts for of_pair in part.tokens])


@dataclass(frozen=True)
class ScoreLog:
    """One model's scores of the rows of a dataset, on disk.

    `head` is what they depend on beside the rows, ready for JSON; its `cells` name those of a row, and `per_token` says
    whether log-probabilities of single tokens are kept, rounded to a millionth. `keys` are a digest for each row, of
    all that is scored of it.
    """

    path: Path
    head: Mapping[str, Any]
    keys: Sequence[str]

    def read(self) -> Scored:
        """Returns the scores that are there, of whole batches from the first row on; drops others from the file.

        Raises RunFolderError where something else scored them, other rows were scored, or the file is damaged.
        """
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.path.is_file() else []
        try:
            head, *rows = [json.loads(line) for line in lines] or [self.head]
        except ValueError as error:
            raise RunFolderError(f"{self.path} is damaged ({error}): remove it to score the pairs again") from error
        for name, value in self.head.items():
            if head.get(name) != value:
                raise RunFolderError(
                    f"{self.path.parent} holds an unfinished diagnosis with another {name}: {head.get(name)} there, "
                    f"{value} now. Give the same to resume it, or choose another --out"
                )
        for place, row in enumerate(rows):
            if place >= len(self.keys) or row["key"] != self.keys[place]:
                raise RunFolderError(
                    f"{self.path}: row {place + 1} was scored with another prompt, answer or picture than it has now: "
                    "choose another --out, or remove this one"
                )
        batch = self.head["batch_size"]
        whole = len(rows) if len(rows) == len(self.keys) else len(rows) // batch * batch
        write_whole(self.path, "".join(f"{line}\n" for line in (json.dumps(self.head), *lines[1 : whole + 1])))
        scores = torch.tensor([row["logprobs"] for row in rows[:whole]], dtype=torch.float32)
        tokens = [
            [torch.tensor(values) for values in row["tokens"]] for row in rows[:whole] if self.head.get("per_token")
        ]
        return Scored(scores.reshape(whole, len(self.head["cells"])).T, tokens)

    def append(self, start: int, scores: Scored) -> None:
        """Adds the scores of the rows from `start` on."""
        rows = [
            {"key": key, "logprobs": sums} for key, sums in zip(self.keys[start:], scores.sums.T.tolist(), strict=False)
        ]
        for row, tokens in zip(rows, scores.tokens, strict=False):
            row["tokens"] = [round_tokens(of_answer) for of_answer in tokens]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def round_tokens(values: Float[Tensor, "n"]) -> list[float]:
    """Returns log-probabilities of tokens as they are written, to a millionth."""
    return [round(value, 6) for value in values.tolist()]
