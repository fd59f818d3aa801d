"""Samples that depend on a prompt and a seed alone, and what the model thought of tokens, read off as it generates.

transformers samples with one random state for a whole batch, so that an answer depends on its neighbours. The token
with the largest log π + g is a draw from π where g is Gumbel noise (Gumbel, 1954): greedy decoding over such scores is
a sample, and the noise of a row is a function of its own seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from mmdpo.generation.questions import GenerationSettings, merge_logprobs

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Of SplitMix64 (Steele, Lea and Flood, 2014), a generator without a state: its n-th number is a hash of seed + n."""


class SeededDraw(LogitsProcessor):
    """Makes greedy decoding a sample, each row of a batch by a seed of its own; temperature and top_p hold as ever."""

    def __init__(self, seeds: Sequence[int], settings: GenerationSettings) -> None:
        """Takes a seed for each row, any whole number; the settings' temperature is above 0."""
        self._seeds = torch.tensor([_signed(seed) for seed in seeds])
        self._warpers = LogitsProcessorList([TemperatureLogitsWarper(float(settings.temperature))])
        if settings.top_p < 1:
            self._warpers.append(TopPLogitsWarper(settings.top_p))
        self._steps: list[Float[Tensor, "B"]] = []
        """Of each token, log π under the sampler."""

    @property
    def is_asked(self) -> bool:
        """Whether a token was drawn."""
        return bool(self._steps)

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Returns log π with each row's next noise."""
        logprobs = self._warpers(input_ids, scores.float()).log_softmax(-1)
        noisy: Tensor = logprobs + draw_noise(self._seeds.to(scores.device), len(self._steps), scores.shape[-1])
        self._steps.append(logprobs.gather(1, noisy.argmax(-1, keepdim=True))[:, 0])
        return noisy

    def sum_logprobs(self, counts: Sequence[int]) -> list[float]:
        """Returns log π of each row's first `counts` tokens under the sampler, in nats."""
        steps = torch.stack(self._steps, dim=1).cpu()
        return [float(row[:count].double().sum()) for row, count in zip(steps, counts, strict=True)]


class FirstTokens(LogitsProcessor):
    """Keeps log π of all tokens that answers may begin with; changes nothing."""

    def __init__(self, num_beams: int) -> None:
        self._beams = num_beams
        self.logprobs: Float[Tensor, "B V"] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a first token was seen."""
        return self.logprobs is not None

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Returns the scores."""
        if self.logprobs is None:
            self.logprobs = scores[:: self._beams].float().log_softmax(-1)
        return scores

    def name_likeliest(self, count: int, tokenizer: Any) -> list[dict[str, float]]:
        """Returns for each row log π of the texts of its likeliest tokens, the likeliest first."""
        assert self.logprobs is not None
        values, tokens = (part.tolist() for part in self.logprobs.topk(min(count, self.logprobs.shape[1])))
        return [
            merge_logprobs((tokenizer.decode([token]), value) for token, value in zip(*row, strict=True))
            for row in zip(tokens, values, strict=True)
        ]


def draw_noise(seeds: Int[Tensor, "B"], step: int, vocabulary: int) -> Float[Tensor, "B V"]:
    """Returns Gumbel noise for each token: a function of seed, step and token, on any device and in any batch."""
    tokens = torch.arange(vocabulary, device=seeds.device) + (step << 32)
    mixed = _mix(_mix(seeds)[:, None] + tokens * _signed(_STEP))
    # float32 is finest near 0, so that there the largest noise is made, which alone decides.
    uniform = (((mixed >> 11) & (2**53 - 1)).float() + 0.5) * 2.0**-53
    return -(-torch.log1p(-uniform.clamp_(max=1 - 2.0**-24))).log()


def _mix(numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Returns a hash of 64-bit numbers; products wrap around."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        numbers = (numbers ^ _shift(numbers, shift)) * _signed(factor)
    return numbers ^ _shift(numbers, 31)


def _shift(numbers: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Shifts to the right and fills up with zeros; PyTorch fills up with the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Returns the last 64 bits of a number, as int64 has them."""
    return (number + 2**63) % 2**64 - 2**63
