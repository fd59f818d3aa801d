"""BCO: one cell's reward should lie above the running mean of the rewards, the other's below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmdpo.objective.losses import Beta
from mmdpo.objective.terms._term import Scores, Term, to_cell
from mmdpo.records import Cell, Comparisons


@dataclass(frozen=True)
class BCO(Term):
    """Binary classification of two cells at a moving threshold.

        BCO(a, b) = −log σ( r_a − δ ) − log σ( δ − r_b )

    δ is the mean of all rewards r_a and r_b of the training so far, over steps and processes, the present ones
    included; the trainer keeps it, and resumes it. With δ = 0 it is `rank` with `loss_type: bco_pair`, as in TRL.

    >>> from mmdpo.objective import BCO, CellScore
    >>> chosen, rejected = Cell("original", "chosen"), Cell("original", "rejected")
    >>> nats = lambda policy, reference: CellScore(torch.tensor([policy]), torch.tensor([5]), torch.tensor([reference]))
    >>> scores = {chosen: nats(-10.0, -14.0), rejected: nats(-20.0, -18.0)}  # rewards of 2 and −1 at β = ½
    >>> BCO((chosen, rejected)).mean_reward(scores, beta=0.5)
    tensor([0.5000])
    >>> BCO((chosen, rejected)).losses(scores, beta=0.5, delta=0.5)  # −log σ(2 − ½) − log σ(½ + 1)
    tensor([0.4028])

    Sources: BCO (arXiv 2404.04656); MPO (2411.10442), whose quality loss it is.
    """

    pair: tuple[Cell, Cell]

    tracks_reward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pair = tuple(to_cell(cell) for cell in self.pair)
        self.normalise(pair=pair, label=self.label or "bco")
        if len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"bco needs two different cells, the better one first; got {[str(cell) for cell in pair]}")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The better cell, then the other."""
        return self.pair

    @property
    def comparisons(self) -> Comparisons:
        """The two cells."""
        return (self.pair,)

    def mean_reward(self, scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        """Returns (r_a + r_b)/2 per example, without a gradient: what δ is the mean of."""
        return torch.stack([self.reward(scores, cell, beta) for cell in self.pair]).mean(0).detach()

    def losses(self, scores: Scores, beta: Beta, delta: Float[Tensor, ""] | float = 0.0) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats."""
        better, worse = (self.reward(scores, cell, beta) for cell in self.pair)
        return -logsigmoid(better - delta) - logsigmoid(delta - worse)
