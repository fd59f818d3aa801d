"""Estimates what a run needs of a GPU's memory, from shapes alone: exact for what stays, a formula for what passes.

What stays is counted tensor by tensor: weights, adapter, gradients, optimizer states, a frozen reference. What a step
keeps for its backward pass is a sum over the decoder's layers; `LayerShape` says which tensors are in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmdpo.models.families import Family
from mmdpo.models.trained import find_added, unwrap_adapter
from mmdpo.scoring.logprobs import CHUNK
from mmdpo.training.config import MDPOConfig

FLOAT, HALF = 4, 2
"""Bytes of a number."""

BLOCK = 64
"""Numbers that share a scale in float32 in bitsandbytes' four bits."""


@dataclass(frozen=True)
class MemoryLine:
    """One part of the estimate, and what it assumes."""

    name: str
    bytes: int
    basis: str


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch that the data can give, in tokens of all its rows, padding included."""

    tokens: int
    answer_tokens: int


SPELLED_OUT = ("NewGELUActivation", "FastGELUActivation", "GELUTanh", "AccurateGELUActivation")
"""Activations that transformers writes as one operation after the other, each of which keeps what it read."""


@dataclass(frozen=True)
class LayerShape:
    """Sizes of the text decoder that its activations depend on."""

    layers: int
    hidden: int
    keys: int
    """Numbers of the keys of one token, all heads together."""
    inner: int
    """Numbers inside the feed-forward part of one token, of all experts that it is sent to."""
    experts: int = 0
    """Experts that a token is sent to."""
    norms: int = 2
    """Norms of a layer: one where attention and feed-forward part stand side by side."""
    readers: int = 0
    """Linear layers that read a norm that autocast computes in float32, each by its own cast; 0 for other norms."""
    is_gated: bool = True
    is_spelled_out: bool = False
    """Whether the activation is one of `SPELLED_OUT`."""

    @classmethod
    def of(cls, decoder: Any, *, is_mixed: bool) -> LayerShape:
        """Returns the sizes of a text decoder, from its configuration and its first layer."""
        text, layer = decoder.config, decoder.layers[0]
        heads = text.num_attention_heads
        per_head = getattr(text, "head_dim", None) or text.hidden_size // heads
        experts = getattr(text, "num_experts_per_tok", None) or 0
        inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        norms = [child for child in layer.children() if "norm" in type(child).__name__.lower()]
        names = [name.rpartition(".")[2] for name, _ in layer.named_modules()]
        plain = is_mixed and any(isinstance(norm, nn.LayerNorm) for norm in norms)
        return cls(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            keys=per_head * (getattr(text, "num_key_value_heads", None) or heads),
            inner=experts * text.moe_intermediate_size if experts and hasattr(text, "moe_intermediate_size") else inner,
            experts=experts,
            norms=len(norms) or 2,
            readers=sum(
                name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "fc1") for name in names
            )
            if plain
            else 0,
            is_gated=bool(experts) or any("gate" in name for name in names),
            is_spelled_out=any(type(module).__name__ in SPELLED_OUT for module in layer.modules()),
        )

    def kept_by_layer(self, number: int) -> int:
        """Returns the bytes that a layer keeps of one token for its backward pass, numbers of `number` bytes each.

        Norms keep their input in float32 and give out another; attention keeps queries, keys, values and what it gives
        out, by pieces and as a whole; the feed-forward part its gate before and after the activation, its other half
        and their product, or without a gate what is before and after the activation. Experts give out a state each,
        which is weighed.
        """
        outputs = self.readers or self.norms
        inner = number * (4 if self.is_gated else 2) + FLOAT * (3 if self.is_spelled_out else 0)
        states = number * ((outputs + 3 + self.experts) * self.hidden + 2 * self.keys)
        return states + self.inner * inner + self.norms * FLOAT * self.hidden


def estimate_memory(
    policy: Any, family: Family, args: MDPOConfig, batch: MicroBatch, *, bits: int | None, reference: str
) -> tuple[MemoryLine, ...]:
    """Returns the parts of what one process needs; nothing is read but shapes, so that `policy` may be on `meta`.

    `bits` is 4 or 8 where bitsandbytes will quantise the weights, and `reference` is `none`, `adapter off` or `copy`.
    """
    return (*_count_static(policy, args, bits=bits, reference=reference), *_count_step(policy, family, args, batch))


def _count_static(policy: Any, args: MDPOConfig, *, bits: int | None, reference: str) -> Iterator[MemoryLine]:
    quantised = _find_quantised(policy) if bits else set()
    parameters = dict(policy.named_parameters())
    trained = [p for p in parameters.values() if p.requires_grad]
    names = find_added(policy)
    added = [p for name, p in parameters.items() if name in names]
    adapter = {id(p) for p in added}
    frozen = [p for p in parameters.values() if id(p) not in adapter]
    in_bits = sum(_quantised_bytes(p, bits) for p in frozen if bits and id(p) in quantised)
    plain = sum(_size(p) for p in frozen if id(p) not in quantised)
    precisions = sorted({str(p.dtype).removeprefix("torch.") for p in frozen})
    how = f"; linear layers in {bits} bits with their scales, the head not" if bits else ""
    yield MemoryLine("weights", plain + in_bits, f"{', '.join(precisions)}{how}")
    if added:
        yield MemoryLine("adapter", sum(map(_size, added)), f"{sum(p.numel() for p in added):,} parameters")
    yield MemoryLine(
        "gradients", sum(map(_size, trained)), "of what is trained, in its precision; DDP keeps them twice"
    )
    yield _count_optimizer(trained, str(args.optim.value if hasattr(args.optim, "value") else args.optim))
    if args.bf16 or args.fp16:
        copies = sum(HALF * p.numel() for p in trained if p.dtype.itemsize == FLOAT)
        yield MemoryLine("autocast", copies, "16-bit copies of trained float32 weights, while a forward runs")
    told = {
        "none": "scored before training, by the model itself",
        "adapter off": "the model with its adapter switched off",
        "copy": "a frozen copy of what is trained",
    }
    yield MemoryLine("reference", sum(map(_size, trained)) if reference == "copy" else 0, told[reference])


def _count_optimizer(trained: list[nn.Parameter], name: str) -> MemoryLine:
    if name.startswith("sgd"):
        return MemoryLine("optimizer", 0, f"{name} without momentum")
    if "8bit" in name:
        states = sum(2 * p.numel() for p in trained)
        return MemoryLine("optimizer", states, f"{name}: two moments of one byte each")
    states = sum(2 * _size(p) + FLOAT for p in trained)
    return MemoryLine("optimizer", states, f"{name}: two moments in the precision of the parameters")


def _count_step(policy: Any, family: Family, args: MDPOConfig, batch: MicroBatch) -> Iterator[MemoryLine]:
    base = unwrap_adapter(policy)
    decoder = base.get_decoder()
    text = decoder.config
    shape = LayerShape.of(decoder, is_mixed=bool(args.bf16 or args.fp16))
    number = HALF if args.bf16 or args.fp16 else base.dtype.itemsize
    kept = batch.tokens * shape.layers * shape.kept_by_layer(number)
    recomputed = batch.tokens * (shape.layers * shape.hidden * number + shape.kept_by_layer(number))
    used, other, told = (recomputed, kept, "without") if args.gradient_checkpointing else (kept, recomputed, "with")
    tower = "The frozen tower keeps none" if args.freeze_vision_tower else "What the trained tower keeps comes on top"
    yield MemoryLine(
        "activations",
        used,
        f"{batch.tokens:,} tokens of the largest micro-batch in {shape.layers} layers; {told} gradient checkpointing "
        f"{format_bytes(other)}. {tower}",
    )
    if family.head_is_last(base):
        logits = min(CHUNK, batch.answer_tokens * text.vocab_size) * (2 * FLOAT + number)
        yield MemoryLine("logits", logits, f"a chunk of {CHUNK // text.vocab_size:,} answer tokens, with its gradient")
    else:
        logits = batch.answer_tokens * text.vocab_size * (2 * FLOAT + number)
        yield MemoryLine(
            "logits", logits, f"{batch.answer_tokens:,} answer tokens at once: the model changes its logits"
        )


def format_bytes(count: int) -> str:
    """Returns a size in the largest unit that leaves at least one: `16.2 GB`, `310 MB`. A GB is 10⁹ bytes."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _find_quantised(policy: Any) -> set[int]:
    """Returns the weights that bitsandbytes quantises: of every linear layer but the head and the adapter's own."""
    head, added = unwrap_adapter(policy).get_output_embeddings(), find_added(policy)
    return {
        id(module.weight)
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear) and module is not head and f"{name}.weight" not in added
    }


def _quantised_bytes(parameter: nn.Parameter, bits: int) -> int:
    if bits == 8:
        return parameter.numel() + FLOAT * parameter.shape[0]
    return math.ceil(parameter.numel() / 2) + FLOAT * math.ceil(parameter.numel() / BLOCK)


def _size(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.dtype.itemsize
