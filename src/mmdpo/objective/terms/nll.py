"""NLL: supervised training on a cell's answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mmdpo.objective.losses import Beta
from mmdpo.objective.terms._term import Scores, Term, name_cell, to_cell
from mmdpo.records import Cell


@dataclass(frozen=True)
class NLL(Term):
    """Negative log-likelihood of the answer, a mean over its tokens unless `per_token` is false.

        NLL(a) = −log π(y|m,q) / |y|

    >>> import torch
    >>> from mmdpo.objective import NLL, CellScore
    >>> cell = Cell("original", "chosen")
    >>> NLL(cell).losses({cell: CellScore(torch.tensor([-10.0]), torch.tensor([5]))}, beta=0.5)
    tensor([2.])

    The mean is taken within each example, so that the value does not depend on how examples are batched.
    Sources: HA-DPO (arXiv 2311.16839) and SymDPO add it to DPO; alone it is supervised fine-tuning.
    """

    cell: Cell
    per_token: bool = field(default=True, kw_only=True)

    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        cell = to_cell(self.cell)
        self.normalise(cell=cell, label=self.label or f"nll_{name_cell(cell)}")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cell whose answer is learned."""
        return (self.cell,)

    def losses(self, scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats per token (or nats)."""
        score = scores[self.cell]
        return -score.logprob / score.tokens.clamp(min=1) if self.per_token else -score.logprob
