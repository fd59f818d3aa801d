"""Rank: this cell should be preferred to that one. Length 2 is DPO, or mDPO's conditional term."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdpo.objective.losses import PAIRWISE, PER_TOKEN, SMOOTHED, Beta, best_of_set, plackett_luce
from mmdpo.objective.terms._term import Scores, Term, to_cell
from mmdpo.records import Cell, Comparisons


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

    A list in the second place is a set: one winner against each of its members, which are not ranked among themselves.

        S(a; {b₁, …, b_K}) = −log( exp r_a / (exp r_a + Σᵢ exp r_bᵢ) )

    With a rival cell c, the loss of a pair is weighted by the example:

        w · R(a > b),    w = 2 σ(r_b − r_c), a constant to the gradient

    For mDPO's conditional term, b the chosen answer under the corrupted image and c the rejected answer under the real
    one, r_b − r_c is the margin between the responses less the margin between the images. So w is 1 at the start and
    where the two margins agree; it nears 2 where an answer is preferred whatever the picture shows, and 0 where the
    picture already decides. Its half is the share of b in the gradient of −log softmax of a against both b and c.

    Sources: DPO (arXiv 2305.18290), mDPO (2406.11839), LPOI for K > 2, MISP-DPO (2509.25717) for sets. The rival is of
    no paper.
    """

    order: tuple[Cell | tuple[Cell, ...], ...]
    label_smoothing: float = 0.0
    loss_type: str = "sigmoid"
    rival: Cell | None = None

    def __post_init__(self) -> None:
        order = tuple(_to_place(place) for place in self.order)
        rival = None if self.rival is None else to_cell(self.rival)
        object.__setattr__(self, "order", order)
        ranked = self.ranked
        self.normalise(rival=rival, label=self.label or _derive_label(ranked))
        shown = [str(cell) for cell in ranked]
        if len(ranked) < 2 or len(set(ranked)) < len(ranked):
            raise ValueError(f"rank needs two or more different cells, best first; got {shown}")
        if any(not isinstance(place, Cell) for place in order) and (len(order) != 2 or not isinstance(order[0], Cell)):
            raise ValueError(f"a set stands in the second place, after one cell, as in [a, [b, c]]; got {self.order!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5); got {self.label_smoothing}")
        if self.loss_type not in PAIRWISE:
            raise ValueError(f"loss_type must be one of {', '.join(PAIRWISE)}; got {self.loss_type!r}")
        if self.loss_type != "sigmoid" and len(ranked) > 2:
            raise ValueError(f"loss_type {self.loss_type} ranks two cells; got {shown}")
        if self.label_smoothing and (self.loss_type not in SMOOTHED or self.is_set):
            raise ValueError(
                f"label_smoothing goes with an order, and with loss_type {', '.join(SMOOTHED)}; got loss_type "
                f"{self.loss_type} and {shown}"
            )
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type exo_pair needs a label_smoothing above 0, such as 0.001: its loss has log ε")
        if self.loss_type in PER_TOKEN and self.per_token:
            raise ValueError(f"loss_type {self.loss_type} is per token already; leave per_token out")
        if rival and (len(ranked) > 2 or rival in ranked or self.loss_type != "sigmoid"):
            raise ValueError(
                f"rival is a third cell beside two that are ranked by loss_type sigmoid; got the rival {rival}, the "
                f"order {shown} and loss_type {self.loss_type}"
            )

    @property
    def is_set(self) -> bool:
        """Whether one cell is preferred to a set."""
        return not isinstance(self.order[-1], Cell)

    @property
    def ranked(self) -> tuple[Cell, ...]:
        """The cells of the order, the best first."""
        return tuple(cell for place in self.order for cell in ((place,) if isinstance(place, Cell) else place))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The ranked cells, best first, then the rival."""
        return self.ranked if self.rival is None else (*self.ranked, self.rival)

    @property
    def comparisons(self) -> Comparisons:
        """Every two cells of an order; the winner and each member of a set."""
        best, *others = self.ranked
        return tuple((best, other) for other in others) if self.is_set else tuple(combinations(self.ranked, 2))

    @property
    def reads_means(self) -> bool:
        """Whether rewards are of means over each answer's tokens: if the term or its loss says so."""
        return self.per_token or self.loss_type in PER_TOKEN

    def losses(self, scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        """Returns the loss per example, in nats for `sigmoid`."""
        rewards = torch.stack([self.reward(scores, cell, beta) for cell in self.ranked])
        smoothing = self.label_smoothing
        if self.is_set:
            return best_of_set(rewards)
        if len(rewards) > 2:
            loss = plackett_luce(rewards)
            return (1 - smoothing) * loss + smoothing * plackett_luce(rewards.flip(0)) if smoothing else loss
        loss = PAIRWISE[self.loss_type](rewards[0], rewards[1], self.own_beta(beta), smoothing)
        return loss if self.rival is None else self._rival_weight(rewards[1], scores, beta) * loss

    def _rival_weight(self, loser: Float[Tensor, "B"], scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        assert self.rival is not None
        # Detached: a weight that learns would fall by raising the rival, which is an answer that nobody prefers.
        return 2 * torch.sigmoid(loser - self.reward(scores, self.rival, beta)).detach()


def _to_place(value: Cell | Iterable[str] | Iterable[Iterable[str]]) -> Cell | tuple[Cell, ...]:
    """Returns a cell, or the cells of a set: a list of anything but names."""
    entries: list[Any] = [] if isinstance(value, str) else list(value)
    if entries and not any(isinstance(entry, str) for entry in entries):
        return tuple(map(to_cell, entries))
    return to_cell(entries or value)  # type: ignore[arg-type]


def _derive_label(cells: tuple[Cell, ...]) -> str:
    if len({cell.image for cell in cells}) == 1:
        return "rank_response"
    return "rank_image" if len({cell.response for cell in cells}) == 1 else "rank_joint"
