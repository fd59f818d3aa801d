"""The clock, the memory counter and the counter of floating-point operations.

Sides are timed in turn (A, B, C, A, B, C, …), so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import gc
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from perf.shapes import Shape
from perf.sides import Side, clear_gradients

PARTS = ("vision tower", "attention", "linear layers", "LoRA", "output head", "everything else")
"""Where time and operations go. The rest is element-wise: norms, activations, positions, copies, allocation."""


def time_interleaved(
    sides: Mapping[str, Side], repetitions: int, clock: Callable[[Callable[[], Any]], float]
) -> dict[str, list[float]]:
    """Returns the seconds of every repetition of every side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        gc.collect()
        for name, side in sides.items():
            seconds[name].append(time_step(side, clock))
    return seconds


def time_step(side: Side, clock: Callable[[Callable[[], Any]], float]) -> float:
    """Returns the seconds of one step, which finds no gradients and leaves none."""
    clear_gradients(side)
    elapsed = clock(side.step)
    clear_gradients(side)
    return elapsed


def wall_clock(step: Callable[[], Any]) -> float:
    """Returns the seconds that a step takes on the CPU."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def cpu_clock(step: Callable[[], Any]) -> float:
    """Returns the CPU seconds that a step takes: on one thread, its time on a machine that does nothing else."""
    start = time.process_time()
    step()
    return time.process_time() - start


def event_clock(step: Callable[[], Any]) -> float:
    """Returns the seconds between two events of the GPU around a step."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


# -- where operations and time go -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """The sizes by which a matrix product is known: no two parts of a measured shape share them."""

    rank: int
    vocabulary: int
    vision_widths: frozenset[int]
    vision_heads: tuple[int, int]
    """Heads, and width of a head."""

    @classmethod
    def of(cls, shape: Shape) -> Sizes:
        """Reads them from the shape."""
        vision = shape.vision
        heads = int(vision["num_heads" if "num_heads" in vision else "num_attention_heads"])
        widths = frozenset({vision["hidden_size"], vision["intermediate_size"]})
        return cls(shape.lora_rank, shape.text["vocab_size"], widths, (heads, vision["hidden_size"] // heads))

    def part_of(self, operation: str, shapes: Sequence[Sequence[int]]) -> str:
        """Returns the part that an operation on tensors of these shapes belongs to."""
        if "convolution" in operation:
            return "vision tower"
        if re.search("scaled_dot_product|flash_attention|efficient_attention|flex_attention|bmm", operation):
            heads, width = self.vision_heads
            is_vision = any(len(s) == 4 and heads in s[1:3] and s[3] == width for s in shapes)
            return "vision tower" if is_vision else "attention"
        if not re.search(r"(^|::|\.)(addmm_?|mm)\b", operation):
            return "everything else"
        dimensions = {size for shape in shapes for size in shape}
        if self.rank in dimensions:
            return "LoRA"
        if self.vocabulary in dimensions:
            return "output head"
        return "vision tower" if dimensions & self.vision_widths else "linear layers"


def count_operations(operation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Returns the floating-point operations of one call; 0 for whatever is neither a product nor attention.

    Attention counts every pair of a query and a key that the kernel is given, masked or not.
    """
    if operation in PRODUCTS:
        left, right = shapes[PRODUCTS[operation] :][:2]
        return 2 * math.prod(left) * right[-1]
    if operation == "aten::convolution":
        image, kernel = shapes[:2]
        steps = math.prod(size // width for size, width in zip(image[2:], kernel[2:], strict=True))
        return 2 * image[0] * steps * math.prod(kernel)
    if re.fullmatch(ATTENTION_KERNELS, operation):
        backward = operation.endswith("_backward")
        query, key, value = [shape for shape in shapes if len(shape) == 4][backward : backward + 3]
        # Forward: scores and values. Backward: the scores once more, and four gradients.
        pairs = 2 * math.prod(query[:-1]) * key[-2]
        return pairs * (3 * query[-1] + 2 * value[-1]) if backward else pairs * (query[-1] + value[-1])
    return 0


PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::addmm_": 1, "aten::baddbmm": 1}
"""Matrix products, and the place of the first factor among their tensors."""
ATTENTION_KERNELS = r"aten::_scaled_dot_product_(flash|efficient|cudnn)_attention(_for_cpu)?(_backward)?"
"""Kernels that PyTorch's scaled dot-product attention chooses among; without them it takes batched products (bmm)."""


@dataclass(frozen=True)
class Profile:
    """What one profiled step shows."""

    loss: float
    """0 for a pass that only scores."""
    peak_bytes: int
    """Most bytes of tensors alive on the CPU at once, beyond those alive before; the gradients are among them."""
    seconds: dict[str, float]
    """CPU time by part; the profiler's own cost is in them, so only their shares mean anything."""
    flops: dict[str, int]
    """Floating-point operations by part."""


def profile_step(side: Side, sizes: Sizes) -> Profile:
    """Profiles one step: every allocation of PyTorch's CPU allocator, and time and shapes of every operation.

    Gradients are left where they are.
    Adding up allocations is exact and repeatable; the resident size of the process is neither, since the C library
    keeps what was freed.
    """
    clear_gradients(side)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True) as profiler:
        output = side.step()
    live = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if _is_allocation(e)), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    seconds, flops = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
    for event in profiler.events():
        shapes = [shape for shape in event.input_shapes or [] if shape and not isinstance(shape[0], list)]
        part = sizes.part_of(event.name, shapes)
        seconds[part] += event.self_cpu_time_total / 1e6
        flops[part] += count_operations(event.name, shapes)
    loss = float(output) if output.numel() == 1 else 0.0
    return Profile(loss, peak, seconds, {part: count for part, count in flops.items() if count})


def _is_allocation(event: Any) -> bool:
    return bool(event.name() == "[memory]" and event.device_type() == torch._C._autograd.DeviceType.CPU)
