"""Pairwise losses: how far a preference a > b holds, from two rewards to a number. Imports torch alone.

Each is a pure function of r_a and r_b, in reward units (m = r_a − r_b is their margin), of β, and of ε, the probability
that the preference is wrong. A new one is a function here and its name in `PAIRWISE`; a recipe then takes it as
`loss_type`. Names and values are TRL's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

Rewards: TypeAlias = Float[Tensor, "B"]
Beta: TypeAlias = "float | Float[Tensor, 'B']"
"""β, or one β for each example."""
PairwiseLoss: TypeAlias = Callable[[Rewards, Rewards, Beta, float], Rewards]


def sigmoid(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """−(1 − ε) log σ(m) − ε log σ(−m), in nats: the Bradley–Terry likelihood. Sources: DPO (2305.18290); ε, cDPO.

    >>> sigmoid(torch.tensor([0.0, 2.0, -2.0]), torch.zeros(3))
    tensor([0.6931, 0.1269, 2.1269])
    """
    margin = better - worse
    loss = -logsigmoid(margin)
    return loss if not epsilon else (1 - epsilon) * loss - epsilon * logsigmoid(-margin)


def robust(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """(−(1 − ε) log σ(m) + ε log σ(−m)) / (1 − 2ε): unbiased where a share ε of the labels is flipped.

    Source: robust DPO (2403.00409).

    >>> robust(torch.tensor([2.0]), torch.zeros(1), epsilon=0.1)  # (0.9 · 0.1269 − 0.1 · 2.1269) / 0.8
    tensor([-0.1231])
    """
    margin = better - worse
    return (-(1 - epsilon) * logsigmoid(margin) + epsilon * logsigmoid(-margin)) / (1 - 2 * epsilon)


def hinge(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """max(0, 1 − m): nothing is asked beyond a margin of 1. Source: SLiC (2305.10425).

    >>> hinge(torch.tensor([0.0, 2.0, -2.0]), torch.zeros(3))
    tensor([1., 0., 3.])
    """
    return torch.relu(1 - (better - worse))


def ipo(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """(m/β − 1/(2β))²: the margin of log-ratios, per answer token as in TRL, is drawn to 1/(2β).

    Source: IPO (2310.12036).

    >>> ipo(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3), beta=0.1)
    tensor([25.,  0., 25.])
    """
    return ((better - worse) / beta - 1 / (2 * beta)) ** 2


def exo_pair(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """KL(softmax(r_a, r_b) ‖ (1 − ε, ε)), in nats: the reverse of what `sigmoid` measures; ε > 0.

    Source: EXO (2402.00856), equation 16.

    >>> exo_pair(torch.tensor([0.0]), torch.zeros(1), epsilon=0.1)  # ½ log(½ / 0.9) + ½ log(½ / 0.1)
    tensor([0.5108])
    """
    log_a, log_b = logsigmoid(better - worse), logsigmoid(worse - better)
    return log_a.exp() * (log_a - math.log1p(-epsilon)) + log_b.exp() * (log_b - math.log(epsilon))


def nca_pair(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """−log σ(r_a) − ½ log σ(−r_a) − ½ log σ(−r_b), in nats. Source: NCA (2402.05369).

    >>> nca_pair(torch.zeros(1), torch.zeros(1))  # 2 log 2
    tensor([1.3863])
    """
    return -logsigmoid(better) - 0.5 * logsigmoid(-better) - 0.5 * logsigmoid(-worse)


def bco_pair(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """−log σ(r_a) − log σ(−r_b), in nats: an anchor above 0 and one below. Source: BCO (2404.04656), with δ = 0 as TRL.

    >>> bco_pair(torch.tensor([2.0]), torch.tensor([-2.0]))
    tensor([0.2539])
    """
    return -logsigmoid(better) - logsigmoid(-worse)


def sppo_hard(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """(r_a/β − 1/(2β))² + (r_b/β + 1/(2β))²: each log-ratio is drawn to its place. Source: SPPO (2405.00675), (4.7).

    >>> sppo_hard(torch.tensor([0.5]), torch.tensor([0.0]), beta=0.1)
    tensor([25.])
    """
    return (better / beta - 0.5 / beta) ** 2 + (worse / beta + 0.5 / beta) ** 2


def apo_zero(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """1 − σ(r_a) + σ(r_b): for chosen answers better than the model's own. Source: APO (2408.06266), (7).

    >>> apo_zero(torch.zeros(1), torch.zeros(1))
    tensor([1.])
    """
    return torch.sigmoid(-better) + torch.sigmoid(worse)


def apo_down(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """σ(r_a) + 1 − σ(m): for chosen answers worse than the model's own. Source: APO (2408.06266), (8).

    >>> apo_down(torch.zeros(1), torch.zeros(1))
    tensor([1.])
    """
    return torch.sigmoid(better) + torch.sigmoid(worse - better)


DISCOPOP_TAU = 0.05


def discopop(better: Rewards, worse: Rewards, beta: Beta = 0.1, epsilon: float = 0.0) -> Rewards:
    """(1 − s) (−log σ(m)) + s e^{−m} with s = σ(m/τ), τ = 0.05. Source: DiscoPOP (2406.08414), (5).

    >>> discopop(torch.tensor([0.0, 2.0]), torch.zeros(2))  # (log 2 + 1) / 2, e^{−2}
    tensor([0.8466, 0.1353])
    """
    margin = better - worse
    share = torch.sigmoid(margin / DISCOPOP_TAU)
    return (1 - share) * -logsigmoid(margin) + share * torch.exp(-margin)


PAIRWISE: dict[str, PairwiseLoss] = {
    "sigmoid": sigmoid,
    "sigmoid_norm": sigmoid,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
}
"""By the name that `loss_type` takes."""

PER_TOKEN = ("ipo", "sigmoid_norm")
"""Losses that read means over each answer's tokens, whatever the term says."""

SMOOTHED = ("sigmoid", "sigmoid_norm", "robust", "exo_pair")
"""Losses that take ε, a term's `label_smoothing`."""


def plackett_luce(rewards: Float[Tensor, "K B"]) -> Rewards:
    """−Σᵢ log( exp rᵢ / Σ_{j≥i} exp rⱼ ), in nats: the likelihood of an order of K rewards, best first.

    For two it is `sigmoid`. Source: DPO (arXiv 2305.18290), appendix A.3.

    >>> plackett_luce(torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))  # log 3 + log 2 where nothing is told apart
    tensor([1.7918, 0.7209])
    """
    # Σ over the places but the last, each against itself and all that follow.
    remaining = torch.logcumsumexp(rewards.flip(0), dim=0).flip(0)
    return (remaining - rewards)[:-1].sum(0)


def best_of_set(rewards: Float[Tensor, "K B"]) -> Rewards:
    """−log( exp r₁ / Σ_j exp rⱼ ), in nats: the first is preferred to each of the others, among which nothing is said.

    It is the first factor of `plackett_luce`, and `sigmoid` for two: −log σ(−log Σ_{i>1} exp(rᵢ − r₁)).
    Source: MISP-DPO (arXiv 2509.25717).

    >>> best_of_set(torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.0]]))  # log 3, log(1 + 2/e)
    tensor([1.0986, 0.5514])
    """
    return -logsigmoid(rewards[0] - torch.logsumexp(rewards[1:], dim=0))
