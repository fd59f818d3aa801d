"""Log-probabilities of preference pairs under the right image, others and none, and the file that keeps them.

The file has a head that says what scored (weights, processor, precision, batches), then a line for each row of the
dataset: a digest of all that was scored of it, and its log-probabilities. A scoring that was killed resumes from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.corruption import Corruption, load
from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.files import write_whole
from mmdpo.models.families import find_family
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import probe
from mmdpo.training.assembly import find_context_length
from mmdpo.training.durable.resume import RunFolderError

OTHER = "random_image"
"""Image version: another example's."""


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


def make_pair_collator(
    processor: Any,
    config: Any,
    images: Sequence[str],
    *,
    seed: int,
    corruption: Corruption | None = None,
    max_length: int | None = None,
) -> Collator:
    """Returns what makes batches of chosen and rejected answers under these image versions.

    `corruption` makes the version `corrupted`; crop_0_20 unless given.
    """
    cells = tuple(Cell(image, response) for image in images for response in (CHOSEN, REJECTED))
    named = {image: load(image) for image in images if image not in (ORIGINAL, NO_IMAGE, CORRUPTED)}
    if CORRUPTED in images:
        named[CORRUPTED] = corruption or load("crop_0_20")
    prepare = Preparer(Renderer(processor, find_family(config)), cells, named, seed)
    return Collator(prepare, max_length, (), find_context_length(config))


def make_items(examples: Sequence[PreferenceExample], collator: Collator) -> Items:
    """Returns examples as the collator takes them, with another example's image where a version shows one.

    Raises ValueError where that is asked of a single example.
    """
    prepare = collator.prepare
    draw_others = any(corruption.needs_other_image for corruption in prepare.corruptions.values())
    return Items(examples, seed=prepare.seed, draw_others=draw_others)


def score_pairs(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[PreferenceExample],
    *,
    batch_size: int = 64,
    try_first: bool = True,
    known: Float[Tensor, "C K"] | None = None,
    keep: Callable[[int, Float[Tensor, "C B"]], None] = lambda start, scores: None,
) -> PairScores:
    """Scores the cells of a collator, each batch in one forward without gradient.

    With `try_first` the model is probed on two of the examples. The first K examples are not scored again where `known`
    has their scores; `keep` receives those of each batch, with the place of its first example. Raises ProbeError for a
    model that scores an answer differently beside others than alone, and RowError, which names the row, for an example
    that has no image where a version needs one.
    """
    family, cells = collator.prepare.renderer.family, collator.prepare.cells
    items, device, was_training = make_items(examples, collator), next(model.parameters()).device, model.training
    model.eval()
    if try_first:
        scorer, _ = probe(Scorer(model, family, cells), collator, items, device=device)
    else:
        scorer = Scorer(model, family, cells, shares_prefix=family.why_separate(model) is None)
    parts = [] if known is None else [known]
    with torch.inference_mode():
        for start in range(0 if known is None else known.shape[1], len(items), batch_size):
            batch = collator([items[place] for place in range(start, min(start + batch_size, len(items)))])
            parts.append(scorer(send_to_device(batch, device), cells).logprobs.cpu())
            keep(start, parts[-1])
    model.train(was_training)
    return PairScores(dict(zip(cells, torch.cat(parts, dim=1), strict=True)))


@dataclass(frozen=True)
class ScoreLog:
    """One model's scores of the rows of a dataset, on disk.

    `head` is what they depend on beside the rows, ready for JSON; its `cells` name those of a row. `keys` are a digest
    for each row, of all that is scored of it.
    """

    path: Path
    head: Mapping[str, Any]
    keys: Sequence[str]

    def read(self) -> Float[Tensor, "C K"]:
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
        return scores.reshape(whole, len(self.head["cells"])).T

    def append(self, start: int, scores: Float[Tensor, "C B"]) -> None:
        """Adds the scores of the rows from `start` on."""
        rows = zip(self.keys[start:], scores.T.tolist(), strict=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"key": key, "logprobs": values}) + "\n" for key, values in rows)
