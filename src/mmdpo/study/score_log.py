"""The scores of a diagnosis, on disk as soon as they are made, so that one that was killed goes on.

The first line says what scored: weights, processor, precision, batches. Each further line is a row in the order of the
dataset: the digest of all that was scored, and its log-probabilities. Only what is the same now is taken up again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdpo.training.durable.resume import RunFolderError


@dataclass(frozen=True)
class ScoreLog:
    """One model's scores of the rows of a dataset."""

    path: Path
    head: Mapping[str, Any]
    """What the scores depend on beside the rows, ready for JSON; `cells` names those of a row."""
    keys: Sequence[str]
    """One digest for each row, of all that is scored of it."""

    def read(self, batch_size: int) -> Float[Tensor, "C K"]:
        """Returns the scores that are there, of whole batches from the first row on; nothing else stays in the file.

        Raises RunFolderError where something else scored them, other rows were scored, or the file is damaged.
        """
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.path.is_file() else []
        try:
            head, *rows = [json.loads(line) for line in lines] or [self.head]
        except ValueError as error:
            raise RunFolderError(f"{self.path} is damaged ({error}): remove it, and pairs are scored anew") from error
        self._compare(head)
        for place, row in enumerate(rows):
            if place >= len(self.keys) or row["key"] != self.keys[place]:
                raise RunFolderError(
                    f"{self.path}: row {place + 1} was scored with another prompt, answer or picture than it has now: "
                    "choose another --out, or remove this one"
                )
        whole = len(rows) if len(rows) == len(self.keys) else len(rows) // batch_size * batch_size
        kept = [json.dumps(self.head), *lines[1 : whole + 1]]
        beside = self.path.with_name(f".{self.path.name}.partly")
        beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        beside.replace(self.path)
        scores = torch.tensor([row["logprobs"] for row in rows[:whole]], dtype=torch.float32)
        return scores.reshape(whole, len(self.head["cells"])).T

    def append(self, start: int, scores: Float[Tensor, "C B"]) -> None:
        """Adds the scores of the rows from `start` on."""
        rows = zip(self.keys[start:], scores.T.tolist(), strict=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"key": key, "logprobs": values}) + "\n" for key, values in rows)

    def _compare(self, there: Mapping[str, Any]) -> None:
        for name, value in self.head.items():
            if there.get(name) != value:
                raise RunFolderError(
                    f"{self.path.parent} holds a diagnosis that was cut short, with another {name}: {there.get(name)} "
                    f"there, {value} now. Go on with the same, or choose another --out"
                )
