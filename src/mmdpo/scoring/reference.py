"""The reference π_ref: the policy's own start, scored on the very batch that the policy sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.data.collate import Batch
from mmdpo.examples import Cell
from mmdpo.scoring.forward import Scorer


class Reference(Protocol):
    """Gives the reference log-probabilities of cells of a batch, without gradient."""

    def __call__(
        self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: dict[str, Any]
    ) -> Float[Tensor, "C B"]:
        """Returns nats. `policy` is the wrapped policy; `memo` carries image features between the two."""
        ...


@dataclass(frozen=True)
class AdapterOff:
    """The policy with its adapter switched off: no second model in memory."""

    scorer: Scorer
    share_images: bool

    def __call__(
        self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: dict[str, Any]
    ) -> Float[Tensor, "C B"]:
        """Scores through the policy's wrapper, adapter off."""
        with torch.no_grad(), self.scorer.model.disable_adapter():  # type: ignore[operator]
            return self.scorer(batch, cells, through=policy, memo=memo if self.share_images else None).logprobs


@dataclass(frozen=True)
class FrozenModel:
    """A second model: a frozen copy of the start, or one that the user gave."""

    scorer: Scorer
    share_images: bool

    def __call__(
        self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: dict[str, Any]
    ) -> Float[Tensor, "C B"]:
        """Scores with the second model."""
        with torch.no_grad():
            return self.scorer(batch, cells, memo=memo if self.share_images else None).logprobs


@dataclass(frozen=True)
class Precomputed:
    """Values scored before training and carried by the batch; the columns are `cells`."""

    cells: tuple[Cell, ...]

    def __call__(
        self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: dict[str, Any]
    ) -> Float[Tensor, "C B"]:
        """Reads the batch. Raises ValueError for a dataset that was not scored before training."""
        values = batch["ref_logprobs"]
        if values is None:
            raise ValueError(
                "precompute_ref_log_probs is on and this dataset was not scored before training; give it to the "
                "trainer as eval_dataset, or turn precompute_ref_log_probs off"
            )
        return values.T[[self.cells.index(cell) for cell in cells]]


def copy_frozen(model: nn.Module) -> nn.Module:
    """Returns a frozen copy of the model that shares the parameters which are not trained."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, memo=dict(shared)).requires_grad_(False).eval()
