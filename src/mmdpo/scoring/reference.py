"""The reference π_ref: the policy's own start, scored on the very batch that the policy sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.data.collate import Batch
from mmdpo.models.load import check_model
from mmdpo.models.seams import count_changes
from mmdpo.models.trained import disable_dropout, is_undone_by_switching_off, unwrap_adapter
from mmdpo.records import Cell
from mmdpo.scoring.forward import Memo, Scorer


class Reference(Protocol):
    """Gives the reference log-probabilities of cells of a batch, without gradient."""

    def __call__(self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: Memo) -> Float[Tensor, "C B"]:
        """Returns nats. `policy` is the wrapped policy; `memo` carries image features between the two."""
        ...


@dataclass(frozen=True)
class AdapterOff:
    """The policy with its adapter switched off: no second model in memory."""

    scorer: Scorer
    share_images: bool

    def __call__(self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: Memo) -> Float[Tensor, "C B"]:
        """Scores through the policy's wrapper, adapter off."""
        model: Any = self.scorer.model
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        try:
            with torch.no_grad(), model.disable_adapter():
                return self.scorer(batch, cells, through=policy, memo=memo if self.share_images else None).logprobs
        finally:
            for parameter in frozen:  # PEFT lets all of an adapter move once it is on again
                parameter.requires_grad_(False)


@dataclass(frozen=True)
class FrozenModel:
    """A second model: a frozen copy of the start, or one that the user gave."""

    scorer: Scorer
    share_images: bool

    def __call__(self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: Memo) -> Float[Tensor, "C B"]:
        """Scores with the second model."""
        with torch.no_grad():
            return self.scorer(batch, cells, memo=memo if self.share_images else None).logprobs


@dataclass
class StartOfPolicy:
    """The policy itself until it moves: a reference that costs no memory, for what is scored before training."""

    scorer: Scorer
    _has_left: bool = False
    _versions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._versions = count_changes(self.scorer.model)

    def leave(self) -> None:
        """Says that training begins, and that the policy is its own reference no longer."""
        self._has_left = True

    def has_moved(self) -> bool:
        """Says whether training has begun, or a weight was changed by hand."""
        return self._has_left or self._versions != count_changes(self.scorer.model)

    def __call__(self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: Memo) -> Float[Tensor, "C B"]:
        """Scores with the policy. Raises ValueError once it has moved."""
        if self.has_moved():
            raise ValueError(
                "this dataset was not scored before training, and the policy, which was its own reference at its "
                "start, has moved since. Give the dataset to the trainer as eval_dataset, or set "
                "precompute_ref_log_probs: false, which keeps a frozen copy of the start in memory"
            )
        trained = [parameter for parameter in self.scorer.model.parameters() if parameter.requires_grad]
        self.scorer.model.requires_grad_(False)  # a frozen head takes another path, which a frozen copy would take, too
        try:
            with torch.no_grad():
                return self.scorer(batch, cells).logprobs
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


@dataclass(frozen=True)
class Precomputed:
    """Values that the batch carries; what it does not carry is scored by the live reference."""

    cells: tuple[Cell, ...]
    """The columns of the batch's values."""
    live: Reference
    """For cells whose image is another one each epoch, and for datasets that were not scored before training."""

    def __call__(self, batch: Batch, cells: tuple[Cell, ...], *, policy: nn.Module, memo: Memo) -> Float[Tensor, "C B"]:
        """Reads the batch. Raises ValueError where it lacks a value and no live reference is left."""
        values = batch["ref_logprobs"]
        by_cell = {} if values is None else dict(zip(self.cells, values.T, strict=True))
        missing = tuple(cell for cell in cells if cell not in by_cell)
        if missing:
            by_cell |= dict(zip(missing, self.live(batch, missing, policy=policy, memo=memo), strict=True))
        return torch.stack([by_cell[cell] for cell in cells])


LiveReference: TypeAlias = AdapterOff | FrozenModel | StartOfPolicy


def choose_reference(policy: Scorer, ref_model: nn.Module | None, *, is_live: bool, drops_out: bool) -> LiveReference:
    """Returns the reference of a policy that has not been trained yet.

    It is `ref_model` where one is given, without its dropout unless `drops_out`; the policy with its adapter off, where
    the adapter is fresh; a frozen copy, where the reference `is_live` while the policy moves; else the policy itself,
    which is asked before that alone.
    """
    if ref_model is not None:
        check_model(ref_model)
        if not drops_out:
            disable_dropout(ref_model)
        shares = policy.shares_prefix and policy.family.cannot_share(ref_model) is None
        frozen = replace(policy, model=ref_model.requires_grad_(False).eval(), shares_prefix=shares)
        return FrozenModel(frozen, share_images=False)
    base = unwrap_adapter(policy.model)
    located = policy.family.locate_parts(base)
    moving = {located.part_of(name) for name, parameter in base.named_parameters() if parameter.requires_grad}
    share_images = moving <= {"language_model"}
    if policy.model is not base and is_undone_by_switching_off(policy.model):
        return AdapterOff(policy, share_images)
    if is_live:
        # What is not trained is one tensor for both.
        shared: dict[int, Any] = {id(p): p for p in policy.model.parameters() if not p.requires_grad}
        copied = copy.deepcopy(policy.model, memo=shared).requires_grad_(False).eval()
        return FrozenModel(replace(policy, model=copied), share_images)
    return StartOfPolicy(policy)
