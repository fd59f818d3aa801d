"""Measures where the CPU seconds of a step go, operator by operator: `python -m perf.operators`. One thread, float32.

CPU seconds of the one thread are counted, so that other processes on the machine delay the measurement more than they
change it. With `--before`, steps of an earlier checkout are measured in turn with this one's, each version in a process
of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from perf.measure import ATTENTION_KERNELS, PRODUCTS, Sizes, count_operations, cpu_clock, time_interleaved, time_step
from perf.record import RESULTS, describe_run, write_result
from perf.rows import draw_lengths, make_rows
from perf.shapes import BODY, BRIEF, TINY, Shape
from perf.sides import (
    ANSWER_HEAD,
    DPO,
    MDPO,
    MDPO_PASS,
    ORIGINAL,
    TRL,
    TRL_CACHED,
    Setting,
    Side,
    build_sides,
    clear_gradients,
)
from perf.versions import add_before, compare_versions, take_turns

PAIRS, SEED, EPOCHS = 4, 0, 3
WANTED = {"body": (TRL, TRL_CACHED, DPO, ORIGINAL, MDPO, MDPO_PASS), "brief": (ANSWER_HEAD, MDPO, DPO)}
OURS = {"body": (DPO, MDPO), "brief": (MDPO, DPO)}
"""What is measured in turn with an earlier version."""

KINDS = ("products", "LoRA's products", "attention", "softmax of the head", "element by element", "copies")
"""What is left of a step is Python, autograd, and memory that is given back."""
COPIES = re.compile(
    r"aten::(cat|stack|clone|copy_|_to_copy|slice_backward|select_backward|index_select|gather|masked_scatter"
    r"|index_put_?|constant_pad_nd|where|scatter_add_?|zero_|fill_|embedding)$"
)


@dataclass
class Cost:
    """What the operators of one kind come to in a step."""

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0
    """Read and written, each operator by itself."""
    least: float = 0.0
    """Seconds at the machine's measured peaks: of each operator the longer of computing and of reading and writing."""


@dataclass(frozen=True)
class Peaks:
    """What the machine does at most on one thread, as measured in the same run."""

    flops: float
    """Operations per second of a float32 product of matrices."""
    bandwidth: float
    """Bytes per second, read and written, of a copy that no cache of the core holds."""


def main() -> None:
    """Measures, and writes a results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--tiny", action="store_true", help="miniature shapes: tries the measurement, measures nothing")
    add_before(parser)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another --output")
    torch.set_num_threads(1)
    shapes = {"body": TINY, "brief": TINY} if options.tiny else {"body": BODY, "brief": BRIEF}
    if options.turns:
        (name,) = options.turns
        sides = _build(shapes[name], OURS[name])
        take_turns(lambda: step_each(sides))
        return
    result = describe_run("cpu") | {"kind": "operators", "miniature": options.tiny, "epochs": EPOCHS, "pairs": PAIRS}
    result |= {
        "load_before": os.getloadavg()[0],
        "peaks": asdict(measure_peaks(tiny=options.tiny)),
        "sides": {},
        "turns": {},
    }
    for name, shape in shapes.items():
        peaks = Peaks(**result["peaks"])
        result["sides"][name] = measure_shape(shape, WANTED[name], options.repetitions, peaks)
        if options.before is not None:
            result["turns"][name] = compare_shape(options.before, name, options.repetitions, tiny=options.tiny)
        result["load_after"] = os.getloadavg()[0]
        path = write_result(result, options.output, prefix="operators-")
    print(f"written to {path}")


def measure_peaks(*, tiny: bool = False) -> Peaks:
    """Returns the best of several tries, of the sizes that the layers of a step have."""
    widths, copied = ((16, 32), 2**10) if tiny else ((512, 1024, 2048), 2**24)
    rows = torch.randn(3584, widths[-1])
    weights = [torch.randn(width, width) for width in widths]
    speeds = []
    for weight in weights * 5:
        width = weight.shape[0]
        inputs = rows[:, :width].contiguous()
        speeds.append(2 * inputs.numel() * width / cpu_clock(lambda: inputs @ weight))  # noqa: B023
    source = torch.randn(copied)
    target = torch.empty_like(source)
    copies = [2 * source.nbytes / cpu_clock(lambda: target.copy_(source)) for _ in range(10)]
    return Peaks(max(speeds), max(copies))


def measure_shape(shape: Shape, wanted: tuple[str, ...], repetitions: int, peaks: Peaks) -> dict[str, Any]:
    """Returns the CPU seconds of each side, measured in turn, and its costs by kind of operator."""
    built = _build(shape, wanted)
    costs = {}
    for name, side in built.items():
        time_step(side, cpu_clock)
        costs[name] = count_costs(side, Sizes.of(shape), peaks)
    found: dict[str, Any] = {}
    for name, seconds in time_interleaved(built, repetitions, cpu_clock).items():
        found[name] = {"each": seconds, "costs": {kind: asdict(cost) for kind, cost in costs[name].items()}}
        print(f"{shape.name:6} {name:28} {statistics.median(seconds):8.3f} s", flush=True)
    return found


def _build(shape: Shape, wanted: tuple[str, ...]) -> dict[str, Side]:
    rows = make_rows(shape, draw_lengths(shape.lengths, PAIRS, SEED), SEED)
    return build_sides(shape, rows, Setting(), wanted)


# -- by kind of operator ----------------------------------------------------------------------------------------------


def count_costs(side: Side, sizes: Sizes, peaks: Peaks) -> dict[str, Cost]:
    """Returns the costs of a step by kind, of the quicker of two steps."""
    tries = []
    for _ in range(2):
        clear_gradients(side)
        clock = OperatorClock(sizes, peaks)
        with clock:
            side.step()
        tries.append(clock.costs)
    clear_gradients(side)
    return min(tries, key=lambda costs: sum(cost.seconds for cost in costs.values()))


class OperatorClock(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up CPU seconds, operations and traffic of operators, forward and backward, by their kind."""

    def __init__(self, sizes: Sizes, peaks: Peaks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes, self.peaks = sizes, peaks
        self.costs = {kind: Cost() for kind in KINDS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        start = time.thread_time()
        out = func(*args, **(kwargs or {}))
        seconds = time.thread_time() - start
        name = str(func._overloadpacket).replace("aten.", "aten::")
        read = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
        shapes = [list(tensor.shape) for tensor in read if tensor.dim() or name == "aten::convolution"]
        flops = count_operations(name, shapes)
        moved = 0 if func.is_view else sum(tensor.numel() * tensor.itemsize for tensor in (*read, *made))
        cost = self.costs[self._kind_of(name, shapes)]
        cost.calls += 1
        cost.seconds += seconds
        cost.flops += flops
        cost.bytes += moved
        cost.least += max(flops / self.peaks.flops, moved / self.peaks.bandwidth)
        return out

    def _kind_of(self, name: str, shapes: list[list[int]]) -> str:
        if re.fullmatch(ATTENTION_KERNELS, name):
            return "attention"
        if name in PRODUCTS or name == "aten::convolution":
            is_lora = any(self.sizes.rank in shape for shape in shapes)
            return "LoRA's products" if is_lora else "products"
        if any(shape[-1:] == [self.sizes.vocabulary] for shape in shapes):
            return "softmax of the head"
        return "copies" if COPIES.match(name) else "element by element"


# -- before and after -------------------------------------------------------------------------------------------------


def compare_shape(before: Path, shape: str, turns: int, *, tiny: bool) -> dict[str, Any]:
    """Returns the CPU seconds of our steps in the version at `before` and in this one."""
    measured = [*(["--tiny", "--output", os.devnull] if tiny else []), "--turns", shape]
    found = compare_versions("perf.operators", before, measured, turns)
    sides = {
        side: {version: [turn[side] for turn in found[version]] for version in ("before", "after")}
        for side in OURS[shape]
    }
    return {"commit_before": found["commit_before"], "sides": sides}


def step_each(sides: dict[str, Side]) -> dict[str, float]:
    """Makes one step of each side, and returns the CPU seconds that it took."""
    return {name: time_step(side, cpu_clock) for name, side in sides.items()}


if __name__ == "__main__":
    main()
