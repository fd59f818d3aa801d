"""Causal attention of a row with branches, in parts whose results are merged, on a CPU.

A query's keys are its own branch up to itself and a prefix that many branches see. Attention over a union of keys is
the mean of attention over each part, weighed by the parts' sums of exponentials,

    softmax(q·[K₁ K₂]) [V₁; V₂] = Σᵢ wᵢ softmax(q·Kᵢ) Vᵢ,    wᵢ = exp(LSEᵢ − LSE),  LSE = log Σᵢ exp LSEᵢ,

so that all branches ask their prefix at once, without a mask, and no keys or values are joined or kept for each of
them. Gradients need nothing of the parts: exp(q·k − LSE) is a key's share in the whole, so a kernel's own backward,
given the merged output and LSE, adds up what each part contributes.

Source: the log-sum-exp identity as in FlashAttention (arXiv 2205.14135, §3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmdpo.models.seams import attend_with_lse, attend_with_lse_backward


class Part(NamedTuple):
    """Queries and keys of a row that one call of the kernel takes: places `[start, stop)`."""

    queries: slice
    keys: slice
    is_causal: bool
    """Each query sees the keys up to its own, of as many; otherwise all."""


def list_parts(lengths: Sequence[int], prefixes: Sequence[Sequence[tuple[int, int]]]) -> list[Part]:
    """Returns the parts of a row of causal pieces, every piece's own first.

    Each piece has `lengths` tokens, and sees of each of its `prefixes` (piece, count) the first `count` tokens. Pieces
    side by side that see the same are one part.
    """
    starts = [sum(lengths[:place]) for place in range(len(lengths) + 1)]
    parts = [Part(slice(*ends), slice(*ends), True) for ends in pairwise(starts)]
    for prefix in dict.fromkeys(prefix for of_piece in prefixes for prefix in of_piece if prefix[1]):
        seen = slice(starts[prefix[0]], starts[prefix[0]] + prefix[1])
        for sees, group in groupby(range(len(lengths)), lambda place: prefix in prefixes[place]):  # noqa: B023
            places = list(group)
            if sees:
                parts.append(Part(slice(starts[places[0]], starts[places[-1] + 1]), seen, False))
    return parts


def is_mergeable(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> bool:
    """Returns whether SDPA would call the kernel for these: of one type and width, on a CPU, without dropout."""
    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == key.shape[-1] == value.shape[-1]
    dense = all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    cast = torch.is_autocast_enabled("cpu") and query.dtype != torch.get_autocast_dtype("cpu")
    # transformers makes a mask of the first, and refuses the second where attention is SDPA's.
    further = any(options.get(name) is not None for name in ("position_bias", "softcap"))
    drops = bool(options.get("dropout"))
    # The switch of CUDA's flash attention turns off the CPU's, too.
    is_allowed = query.device.type == "cpu" and bool(torch.backends.cuda.flash_sdp_enabled())  # type: ignore[no-untyped-call]
    return is_allowed and alike and dense and not cast and not drops and not further


def attend_merged(
    query: Float[Tensor, "1 H S D"],
    key: Float[Tensor, "1 G S D"],
    value: Float[Tensor, "1 G S D"],
    parts: Sequence[Part],
    scale: float | None,
) -> Float[Tensor, "1 S H D"]:
    """Returns what every query sees of its parts, zeros where it has none. G key heads serve H / G query heads each."""
    if (times := query.shape[1] // key.shape[1]) > 1:
        key, value = (tensor.repeat_interleave(times, dim=1) for tensor in (key, value))
    output: Tensor = _Merged.apply(query, key, value, parts, scale)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part], scale: float | None
    ) -> Tensor:
        _, heads, length, width = query.shape
        output = query.new_empty(1, length, heads, width).transpose(1, 2)
        precise = torch.promote_types(query.dtype, torch.float32)
        lse = query.new_empty(1, length, heads, dtype=precise).transpose(1, 2)
        for part in parts:
            found, its_lse = attend_with_lse(
                query[:, :, part.queries], key[:, :, part.keys], value[:, :, part.keys], part.is_causal, scale
            )
            whole, whole_lse = output[:, :, part.queries], lse[:, :, part.queries]
            if part.is_causal:  # its own, which comes first
                whole.copy_(found)
                whole_lse.copy_(its_lse)
            else:
                share = torch.sigmoid(its_lse - whole_lse)
                whole.lerp_(found, share[..., None].to(whole.dtype))
                torch.logaddexp(whole_lse, its_lse, out=whole_lse)
        _clear_padding(output, parts)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.parts, ctx.scale = parts, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, lse = ctx.saved_tensors
        of_query, of_key, of_value = whole = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for part in ctx.parts:
            found = attend_with_lse_backward(
                gradient[:, :, part.queries],
                query[:, :, part.queries],
                key[:, :, part.keys],
                value[:, :, part.keys],
                output[:, :, part.queries],
                lse[:, :, part.queries],
                part.is_causal,
                ctx.scale,
            )
            for of_whole, places, of_part in zip(whole, (part.queries, part.keys, part.keys), found, strict=True):
                add_up = of_whole[:, :, places].copy_ if part.is_causal else of_whole[:, :, places].add_
                add_up(of_part)
        for of_whole in whole:
            _clear_padding(of_whole, ctx.parts)
        return of_query, of_key, of_value, None, None


def _clear_padding(tensor: Float[Tensor, "1 H S D"], parts: Sequence[Part]) -> None:
    tensor[:, :, max(part.queries.stop for part in parts) :] = 0
