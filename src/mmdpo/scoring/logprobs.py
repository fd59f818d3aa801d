"""Log-probabilities at answer positions only: the output head never sees a prompt position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@contextmanager
def answer_positions_only(head: nn.Module, predicts: Bool[Tensor, "R S"]) -> Iterator[None]:
    """Within it, the model's output head is given the N hidden states that predict an answer token, as [1, N, D]."""

    def select(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = arguments
        # A model spread over devices has its head on another one than its inputs.
        return (hidden[predicts.to(hidden.device)][None], *rest)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def sum_logprobs(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"], predicts: Bool[Tensor, "R S"]
) -> Float[Tensor, "R"]:
    """Returns log π(answer) per row in nats: the sum of its tokens' log-probabilities, in float32.

    A softmax over a 16-bit vocabulary loses the differences that preferences are made of.
    """
    per_token = -nn.functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="none")
    row = predicts.nonzero()[:, 0]
    return torch.zeros(len(predicts), device=predicts.device).index_add(0, row, per_token.to(predicts.device))
