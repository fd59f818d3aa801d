"""Anchor: this cell's reward should lie above (or below) a fixed value."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mmdpo.objective.losses import Beta
from mmdpo.objective.terms._term import Scores, Term, name_cell, to_cell
from mmdpo.records import Cell

SIDES = {"above": 1.0, "below": -1.0}


@dataclass(frozen=True)
class Anchor(Term):
    """Keeps the reward of one cell on one side of δ.

        A₊(a; δ) = −log σ( r_a − δ )   (side `above`),      A₋(a; δ) = −log σ( δ − r_a )   (side `below`)

    δ is in reward units.

    >>> import torch
    >>> from mmdpo.objective import Anchor, CellScore
    >>> cell = Cell("original", "chosen")
    >>> scores = {cell: CellScore(torch.tensor([-10.0]), torch.tensor([5]), torch.tensor([-14.0]))}
    >>> Anchor(cell).losses(scores, beta=0.5), Anchor(cell, side="below").losses(scores, beta=0.5)  # −log σ(±2)
    (tensor([0.1269]), tensor([2.1269]))

    Source: mDPO, section 3.3 and Table 4.
    """

    cell: Cell
    delta: float = 0.0
    side: str = "above"

    def __post_init__(self) -> None:
        cell = to_cell(self.cell)
        self.normalise(cell=cell, label=self.label or f"anchor_{name_cell(cell)}")
        if self.side not in SIDES:
            raise ValueError(f"side must be above or below; got {self.side!r}")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The anchored cell."""
        return (self.cell,)

    def losses(self, scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats."""
        return -F.logsigmoid(SIDES[self.side] * (self.reward(scores, self.cell, beta) - self.delta))
