"""Pairwise losses: how far a preference a > b holds, from the margin of two rewards to a number. Imports torch alone.

Each is a pure function of the margin, m = r_a − r_b in reward units, and β. A new one is a function here and its name
in `PAIRWISE`; a recipe then takes it as `loss_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PairwiseLoss: TypeAlias = Callable[[Float[Tensor, "B"], float], Float[Tensor, "B"]]


def sigmoid(margin: Float[Tensor, "B"], beta: float) -> Float[Tensor, "B"]:
    """−log σ(m), in nats: the Bradley–Terry likelihood. Source: DPO (arXiv 2305.18290).

    >>> sigmoid(torch.tensor([0.0, 2.0, -2.0]), 0.1)
    tensor([0.6931, 0.1269, 2.1269])
    """
    return -F.logsigmoid(margin)


def hinge(margin: Float[Tensor, "B"], beta: float) -> Float[Tensor, "B"]:
    """max(0, 1 − m): nothing is asked beyond a margin of 1. Source: SLiC (arXiv 2305.10425).

    >>> hinge(torch.tensor([0.0, 2.0, -2.0]), 0.1)
    tensor([1., 0., 3.])
    """
    return torch.relu(1 - margin)


def ipo(margin: Float[Tensor, "B"], beta: float) -> Float[Tensor, "B"]:
    """(m/β − 1/(2β))²: the margin of log-ratios, per answer token as in TRL, is drawn to 1/(2β).

    Source: IPO (arXiv 2310.12036).

    >>> ipo(torch.tensor([0.0, 0.5, 1.0]), 0.1)
    tensor([25.,  0., 25.])
    """
    return (margin / beta - 1 / (2 * beta)) ** 2


PAIRWISE: dict[str, PairwiseLoss] = {"sigmoid": sigmoid, "hinge": hinge, "ipo": ipo}
"""By the name that `loss_type` takes."""

PER_TOKEN = ("ipo",)
"""Losses that read means over each answer's tokens, whatever the term says."""


def plackett_luce(rewards: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    """−Σᵢ log( exp rᵢ / Σ_{j≥i} exp rⱼ ), in nats: the likelihood of an order of K rewards, best first.

    For two it is `sigmoid`. Source: DPO (arXiv 2305.18290), appendix A.3.

    >>> plackett_luce(torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))  # log 3 + log 2 where nothing is told apart
    tensor([1.7918, 0.7209])
    """
    if len(rewards) == 2:
        return -F.logsigmoid(rewards[0] - rewards[1])  # the same number, exact for margins of any size
    # Σ over the places but the last, each against itself and all that follow.
    remaining = torch.logcumsumexp(rewards.flip(0), dim=0).flip(0)
    return (remaining - rewards)[:-1].sum(0)
