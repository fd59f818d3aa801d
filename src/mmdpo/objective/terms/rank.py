"""Rank: this cell should be preferred to that one. Length 2 is DPO, or mDPO's conditional term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mmdpo.examples import Cell
from mmdpo.objective.terms._term import Scores, Term, to_cell

LOSS_TYPES = ("sigmoid", "hinge", "ipo")


@dataclass(frozen=True)
class Rank(Term):
    """Plackett–Luce likelihood of an order of cells, best first.

        R(a₁ > … > a_K) = −Σᵢ log( exp rᵢ / Σ_{j≥i} exp rⱼ ),      R(a > b) = −log σ(r_a − r_b)

    With label smoothing ε the loss is (1 − ε) R(a₁ > … > a_K) + ε R(a_K > … > a₁). Pairs may instead use

        hinge   max(0, 1 − (r_a − r_b))
        ipo     (h_a − h_b − 1/(2β))²,   h = logratio per answer token, as in TRL

    Sources: DPO (arXiv 2305.18290), mDPO (2406.11839), IPO (2310.12036), SLiC (2305.10425), LPOI for K > 2.
    """

    order: tuple[Cell, ...]
    label_smoothing: float = 0.0
    loss_type: str = "sigmoid"

    def __post_init__(self) -> None:
        order = tuple(to_cell(cell) for cell in self.order)
        self.normalise(order=order, label=self.label or _derive_label(order))
        if len(order) < 2 or len(set(order)) < len(order):
            raise ValueError(f"rank needs two or more different cells, best first; got {[str(cell) for cell in order]}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5); got {self.label_smoothing}")
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}; got {self.loss_type!r}")
        if self.loss_type != "sigmoid" and (len(order) > 2 or self.label_smoothing):
            raise ValueError(f"loss_type {self.loss_type} ranks two cells, without label smoothing")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The ranked cells, best first."""
        return self.order

    def losses(self, scores: Scores, beta: float) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats for `sigmoid`."""
        if self.loss_type == "ipo":
            better, worse = (scores[cell].logratio / scores[cell].tokens.clamp(min=1) for cell in self.order)
            return (better - worse - 1 / (2 * (beta if self.beta is None else self.beta))) ** 2
        rewards = torch.stack([self.reward(scores, cell, beta) for cell in self.order])
        if self.loss_type == "hinge":
            return torch.relu(1 - (rewards[0] - rewards[1]))
        smoothing = self.label_smoothing
        loss = _plackett_luce(rewards)
        return (1 - smoothing) * loss + smoothing * _plackett_luce(rewards.flip(0)) if smoothing else loss


def _plackett_luce(rewards: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    if len(rewards) == 2:
        return -F.logsigmoid(rewards[0] - rewards[1])  # the same number, exact for margins of any size
    # Σ over the places but the last, each against itself and all that follow.
    remaining = torch.logcumsumexp(rewards.flip(0), dim=0).flip(0)
    return (remaining - rewards)[:-1].sum(0)


def _derive_label(cells: tuple[Cell, ...]) -> str:
    if len({cell.image for cell in cells}) == 1:
        return "rank_response"
    return "rank_image" if len({cell.response for cell in cells}) == 1 else "rank_joint"
