"""Log-probabilities at answer positions only: the output head never sees a prompt position.

A model's own forward returns log π(token) where it would return logits, a chunk of tokens at a time, so that no
[tokens × vocabulary] tensor outlives its chunk. A model that changes logits after its head returns those of answer
positions instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdpo.models.devices import send

CHUNK = 2**23
"""Logits that exist at a time: 32 MB in float32."""


@contextmanager
def answer_positions_only(head: nn.Module, predicts: Int[Tensor, "N"]) -> Iterator[None]:
    """Within it, the model's output head is given the N hidden states that predict an answer token, as [1, N, D]."""

    def select(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = arguments
        return (_select(hidden, predicts)[None], *rest)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def answer_logprobs_only(
    head: Any, predicts: Int[Tensor, "N"], targets: Int[Tensor, "N"], suppressed: Sequence[int] = ()
) -> Iterator[None]:
    """Within it, the model's output head returns the log-probabilities of N answer tokens, as [1, N, 1], in float32.

    The model must not change what its head returns (soft caps, scales). `suppressed` tokens have no probability.
    """
    of_class, of_instance = head.forward, head.__dict__.get("forward")

    def forward(hidden: Tensor) -> Tensor:
        states = _select(hidden, predicts)
        is_frozen = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
        steps = max(1, CHUNK // head.weight.shape[0])
        values = [
            _FrozenHead.apply(part, head.weight, head.bias, wanted, suppressed)  # type: ignore[no-untyped-call]
            if is_frozen
            else checkpoint(_score, of_class, part, wanted, suppressed, use_reentrant=False)
            for part, wanted in zip(
                torch.split(states, steps), torch.split(targets.to(states.device), steps), strict=True
            )
        ]
        return torch.cat(values)[None, :, None]

    # An attribute of the instance hides the method; the module is still called, so that its hooks run.
    head.forward = forward
    try:
        yield
    finally:
        if of_instance is None:
            del head.forward
        else:
            head.forward = of_instance


def find_suppressed(generation_config: Any) -> tuple[int, ...]:
    """Returns the tokens that a model's generation config suppresses: no answer has them, and no softmax here.

    They are rows of the head that no text has: `<image>` of a converted Bunny, which the original lacks.
    """
    return tuple(getattr(generation_config, "suppress_tokens", None) or ())


def pick_logprobs(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"], suppressed: Sequence[int] = ()
) -> Float[Tensor, "N"]:
    """Returns log π(token) in nats, in float32; `suppressed` tokens have no probability.

    A softmax over a 16-bit vocabulary loses the differences that preferences are made of.
    """
    logits = logits.float()
    if suppressed:
        logits = logits.index_fill(-1, send(torch.tensor(suppressed), logits.device), -torch.inf)
    return -nn.functional.cross_entropy(logits, targets.to(logits.device), reduction="none")


def sum_by_cell(per_token: Float[Tensor, "N"], cell_of: Int[Tensor, "N"], count: int) -> Float[Tensor, "C·B"]:
    """Returns log π(answer) of every cell of every example: the sum of its tokens' log-probabilities."""
    return torch.zeros(count, device=cell_of.device).index_add(0, cell_of, per_token.to(cell_of.device))


def _select(hidden: Float[Tensor, "R S D"], predicts: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
    # A model spread over devices has its head on another one than its inputs.
    return hidden.flatten(0, 1).index_select(0, predicts.to(hidden.device))


def _score(
    head: Any, hidden: Float[Tensor, "n D"], targets: Int[Tensor, "n"], suppressed: Sequence[int]
) -> Float[Tensor, "n"]:
    return pick_logprobs(head(hidden), targets, suppressed)


class _FrozenHead(torch.autograd.Function):
    """log π(token) under a linear head that is not trained.

    The gradient by the hidden state is W[token] − Σ_v π(v) W[v], whatever comes from above scales it: it is made
    while the logits are there, so that neither are they kept nor made again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "n D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, "V"] | None,
        targets: Int[Tensor, "n"],
        suppressed: Sequence[int],
    ) -> Float[Tensor, "n"]:
        raw = nn.functional.linear(hidden, weight, bias)
        logits = raw.float()
        if suppressed:
            logits.index_fill_(-1, send(torch.tensor(suppressed), logits.device), -torch.inf)
        # A softmax step by step, each in place: another tensor of this size would take longer than the sums.
        logits.sub_(logits.amax(-1, keepdim=True))
        picked = logits.gather(1, targets[:, None])
        odds = logits.exp_()
        total = odds.sum(-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            surplus = odds.div_(total).scatter_add_(1, targets[:, None], -torch.ones_like(total))
            ctx.save_for_backward(-(surplus.to(raw.dtype) @ weight.to(raw.dtype)).to(hidden.dtype))
        return (picked - total.log())[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (direction,) = ctx.saved_tensors
        return (gradients[0][:, None] * direction).to(direction.dtype), None, None, None, None
