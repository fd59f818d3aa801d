"""Rank: this cell should be preferred to that one. Length 2 is DPO, or mDPO's conditional term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdpo.objective.losses import PAIRWISE, PER_TOKEN, plackett_luce
from mmdpo.objective.terms._term import Scores, Term, to_cell
from mmdpo.records import Cell


@dataclass(frozen=True)
class Rank(Term):
    """Plackett–Luce likelihood of an order of cells, best first.

        R(a₁ > … > a_K) = −Σᵢ log( exp rᵢ / Σ_{j≥i} exp rⱼ ),      R(a > b) = −log σ(r_a − r_b)

    With label smoothing ε the loss is (1 − ε) R(a₁ > … > a_K) + ε R(a_K > … > a₁). A pair may take another loss of
    `mmdpo.objective.losses`, by its name as `loss_type`.

    >>> from mmdpo.objective import CellScore, Rank
    >>> chosen, rejected = Cell("original", "chosen"), Cell("original", "rejected")
    >>> nats = lambda policy, reference: CellScore(torch.tensor([policy]), torch.tensor([5]), torch.tensor([reference]))
    >>> scores = {chosen: nats(-10.0, -14.0), rejected: nats(-20.0, -18.0)}  # log-ratios of 4 and −2 nats
    >>> Rank((chosen, rejected)).losses(scores, beta=0.5)  # −log σ(2 − (−1))
    tensor([0.0486])

    With a rival cell c, the loss of a pair is weighted by the example:

        w · R(a > b),    w = 2 σ(r_b − r_c), a constant to the gradient

    For mDPO's conditional term, b the chosen answer under the corrupted image and c the rejected answer under the real
    one, r_b − r_c is the margin between the responses less the margin between the images. So w is 1 at the start and
    where the two margins agree; it nears 2 where an answer is preferred whatever the picture shows, and 0 where the
    picture already decides. Its half is the share of b in the gradient of −log softmax of a against both b and c.

    Sources: DPO (arXiv 2305.18290), mDPO (2406.11839), LPOI for K > 2. The rival is of no paper.
    """

    order: tuple[Cell, ...]
    label_smoothing: float = 0.0
    loss_type: str = "sigmoid"
    rival: Cell | None = None

    def __post_init__(self) -> None:
        order = tuple(to_cell(cell) for cell in self.order)
        rival = None if self.rival is None else to_cell(self.rival)
        self.normalise(order=order, rival=rival, label=self.label or _derive_label(order))
        if len(order) < 2 or len(set(order)) < len(order):
            raise ValueError(f"rank needs two or more different cells, best first; got {[str(cell) for cell in order]}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5); got {self.label_smoothing}")
        if self.loss_type not in PAIRWISE:
            raise ValueError(f"loss_type must be one of {', '.join(PAIRWISE)}; got {self.loss_type!r}")
        if self.loss_type != "sigmoid" and (len(order) > 2 or self.label_smoothing):
            raise ValueError(f"loss_type {self.loss_type} ranks two cells, without label smoothing")
        if self.loss_type in PER_TOKEN and self.per_token:
            raise ValueError(f"loss_type {self.loss_type} is per token already; leave per_token out")
        if rival and (len(order) > 2 or rival in order or self.loss_type != "sigmoid"):
            raise ValueError(
                f"rival is a third cell beside two that are ranked by loss_type sigmoid; got the rival {rival}, the "
                f"order {[str(cell) for cell in order]} and loss_type {self.loss_type}"
            )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The ranked cells, best first, then the rival."""
        return self.order if self.rival is None else (*self.order, self.rival)

    @property
    def reads_means(self) -> bool:
        """Whether rewards are of means over each answer's tokens: if the term or its loss says so."""
        return self.per_token or self.loss_type in PER_TOKEN

    def losses(self, scores: Scores, beta: float) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats for `sigmoid`."""
        rewards = torch.stack([self.reward(scores, cell, beta) for cell in self.order])
        if self.loss_type != "sigmoid":
            return PAIRWISE[self.loss_type](rewards[0] - rewards[1], self.own_beta(beta))
        loss, smoothing = plackett_luce(rewards), self.label_smoothing
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * plackett_luce(rewards.flip(0))
        return loss if self.rival is None else self._rival_weight(rewards[1], scores, beta) * loss

    def _rival_weight(self, loser: Float[Tensor, "B"], scores: Scores, beta: float) -> Float[Tensor, "B"]:
        assert self.rival is not None
        # Detached: a weight that learns would fall by raising the rival, which is an answer that nobody prefers.
        return 2 * torch.sigmoid(loser - self.reward(scores, self.rival, beta)).detach()


def _derive_label(cells: tuple[Cell, ...]) -> str:
    if len({cell.image for cell in cells}) == 1:
        return "rank_response"
    return "rank_image" if len({cell.response for cell in cells}) == 1 else "rank_joint"
