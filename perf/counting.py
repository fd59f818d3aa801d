"""Operations, traffic and memory of a step on a device that is not there, and the least time that they take."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers.modeling_layers import GradientCheckpointingLayer

from perf.fake import DEVICE, list_tensors

aten = torch.ops.aten


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most, from its maker's data sheet; dense products, without sparsity."""

    name: str
    bytes: float
    half_flops: float
    """Operations per second in bfloat16."""
    full_flops: float
    """In float32, TF32 not allowed."""
    bandwidth: float
    """Bytes per second."""


GPUS = (
    Gpu("H100", bytes=80e9, half_flops=989.4e12, full_flops=67e12, bandwidth=3.35e12),
    Gpu("H200", bytes=141e9, half_flops=989.4e12, full_flops=67e12, bandwidth=4.8e12),
)


@dataclass(frozen=True)
class Counts:
    """What one step comes to."""

    flops: int
    traffic_bytes: int
    """Read and written by all operations, each by itself as PyTorch runs them, nothing kept in a cache."""
    before_bytes: int
    """Weights, adapter and batch."""
    peak_bytes: int
    """The most that is alive at once, with what was there before; allocator and CUDA itself left out."""
    seconds: dict[str, float]
    """By GPU: the sum over operations of what takes longer, computing or traffic."""

    def extend(self, others: Sequence[tuple[Counts, float]]) -> Counts:
        """Returns what lies as far from these counts as the others do, so many times each, all of it together."""

        def follow(read: Callable[[Counts], float]) -> float:
            return read(self) + sum(times * (read(other) - read(self)) for other, times in others)

        names = ("flops", "traffic_bytes", "before_bytes", "peak_bytes")
        sizes = {name: round(follow(attrgetter(name))) for name in names}
        seconds = {gpu: follow(lambda counts, gpu=gpu: counts.seconds[gpu]) for gpu in self.seconds}  # type: ignore[misc]
        return Counts(**sizes, seconds=seconds)


def count_step(model: nn.Module, step: Callable[[], Any], place: Any, device: torch.device = DEVICE) -> Counts:
    """Returns what a step comes to on a device. `place` is a context in which the step runs there."""
    with ExitStack() as stack:
        stack.enter_context(place)
        counter = StepCounter(device, [*model.parameters(), *model.buffers()])
        before = counter.live
        stack.enter_context(counter)
        stack.enter_context(count_likes(model, counter))
        step()
    return Counts(counter.flops, counter.traffic, before, counter.peak, counter.seconds)


class StepCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up operations, traffic and the least time of each operation, and follows how much memory is alive.

    PyTorch's `FlopCounterMode` and `MemTracker` count the same (test_simulate.py); the latter goes through all that is
    alive at every operation, which takes hours for a model of full size.
    """

    def __init__(self, device: torch.device, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.flops = self.traffic = self.live = self.peak = 0
        self.seconds = {gpu.name: 0.0 for gpu in GPUS}
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._follow(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [tensor for tensor in list_tensors((out,)) if tensor.device.type == self.device.type]
        for tensor in made:
            self._follow(tensor)
        if func.is_view or func in _FREE:
            return out
        read = list_tensors((args, kwargs))
        moved = sum(_touched(t) for t in (*made, *read) if t.device.type == self.device.type)
        packet = func._overloadpacket
        flops = int(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0
        if packet is aten._grouped_mm:  # of experts; PyTorch's counter leaves it out: [tokens, k] by [experts, k, n]
            flops = 2 * args[0].numel() * args[1].shape[-1]
        if packet is aten.addmm_:  # left out as well: [m, n], [m, k] by [k, n]
            flops = 2 * args[1].numel() * args[2].shape[-1]
        is_half = any(t.dtype in (torch.bfloat16, torch.float16) for t in made)
        self.flops += flops
        self.traffic += moved
        for gpu in GPUS:
            speed = gpu.half_flops if is_half else gpu.full_flops
            self.seconds[gpu.name] += max(flops / speed, moved / gpu.bandwidth)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def forget(_: Any) -> None:
            del self._alive[key]
            self.live -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)

    @property
    def sums(self) -> list[float]:
        """What only grows: operations, traffic, and the seconds of each GPU."""
        return [self.flops, self.traffic, *self.seconds.values()]

    def add(self, sums: Sequence[float], peak: int) -> None:
        """Counts what was counted before: what `sums` grew by, while `peak` bytes more than now were alive."""
        self.flops += int(sums[0])
        self.traffic += int(sums[1])
        for name, seconds in zip(self.seconds, sums[2:], strict=True):
            self.seconds[name] += seconds
        self.peak = max(self.peak, self.live + peak)


@contextmanager
def count_likes(model: nn.Module, counter: StepCounter) -> Iterator[None]:
    """Within it, a layer that no graph is kept of runs once, and is counted again for each that is like it.

    Two are alike where class, sizes of weights, and what they are given are the same; so it is with all layers of a
    tower or of a reference. One that leaves anything but its output alive runs each time. Counts are the same
    (test_simulate.py), in a tenth of the time for a tower that calls attention window by window.
    """
    known: dict[Any, tuple[list[float], int, Any]] = {}

    def take_turns(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            key = _describe_call(layer, args, kwargs)
            if key is None:
                return forward(*args, **kwargs)
            if key in known:
                sums, peak, shapes = known[key]
                counter.add(sums, peak)
                return tree_map_only(_Like, _Like.make, shapes)
            live, before, highest = counter.live, counter.sums, counter.peak
            counter.peak = live
            out = forward(*args, **kwargs)
            peak, counter.peak = counter.peak - live, max(highest, counter.peak)
            made = {id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tree_flatten(out)[0]}
            if counter.live - live == sum(made.values()):
                grown = [after - at_first for after, at_first in zip(counter.sums, before, strict=True)]
                known[key] = grown, peak, tree_map_only(Tensor, _Like.of, out)
            return out

        return run

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = take_turns(layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@dataclass(frozen=True)
class _Like:
    """What says how to make a tensor like another one."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Like:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def make(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


def _describe_call(layer: nn.Module, args: Any, kwargs: Any) -> Any:
    """Returns what a call's counts depend on, None where a graph is kept of it or that cannot be said."""
    values, structure = tree_flatten((args, kwargs))
    weights = [*layer.parameters()]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*weights, *tensors)):
        return None
    given: list[Any] = [type(layer), layer.training, str(structure)]
    given += [(tuple(weight.shape), weight.dtype) for weight in weights]
    given += [getattr(module, "disable_adapters", None) for module in layer.modules()]
    for value in values:
        if isinstance(value, Tensor):
            on_host = value.device.type == "cpu"
            given.append((_Like.of(value), tuple(value.flatten().tolist()) if on_host else None))
        elif value is None or isinstance(value, bool | int | float | str | torch.dtype):
            given.append(value)
        else:
            return None
    return tuple(given)


_FREE = (aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.detach.default)
"""Operations that touch no memory."""


def _touched(tensor: Tensor) -> int:
    """Returns the bytes of a tensor that lie in memory: dimensions that were expanded are read once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride or size == 1 else 1
    return numbers * tensor.itemsize


# -- mixed precision --------------------------------------------------------------------------------------------------


class Autocast(TorchFunctionMode):
    """Autocast to bfloat16 as CUDA has it, for a device that PyTorch has none for.

    The lists are those of PyTorch's documentation, as far as a step meets them. As there, the casts of trained float32
    weights are kept until the forward is over.
    """

    HALF = frozenset(
        (
            "linear",
            "matmul",
            "__matmul__",
            "__rmatmul__",
            "mm",
            "bmm",
            "addmm",
            "baddbmm",
            "addbmm",
            "mv",
            "einsum",
            "conv1d",
            "conv2d",
            "conv3d",
            "scaled_dot_product_attention",
            "prelu",
        )
    )
    FULL = frozenset(
        (
            "layer_norm",
            "group_norm",
            "softmax",
            "log_softmax",
            "cross_entropy",
            "nll_loss",
            "logsumexp",
            "softplus",
            "pow",
            "__pow__",
            "__rpow__",
            "exp",
            "log",
            "log1p",
            "rsqrt",
            "reciprocal",
            "norm",
            "sum",
            "cumsum",
            "prod",
            "cosine_similarity",
            "mse_loss",
            "l1_loss",
            "kl_div",
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = None

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Within it, casts of trained weights are kept."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation on numbers of the precision that it is given."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "") or str(resolve_name(func))
        if name in self.HALF or name in self.FULL:
            wanted = torch.bfloat16 if name in self.HALF else torch.float32
            if "out" not in kwargs:
                args = tuple(self._cast(value, wanted) for value in args)
                kwargs = {key: self._cast(value, wanted) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any, wanted: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._cast(each, wanted) for each in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype in (wanted, torch.float64):
            return value
        if value.device != DEVICE:
            return value
        if self._kept is None or not (value.is_leaf and value.requires_grad and wanted == torch.bfloat16):
            return value.to(wanted)
        if id(value) not in self._kept:
            self._kept[id(value)] = (value, value.to(wanted))
        return self._kept[id(value)][1]


@contextmanager
def mixed_precision(*, enabled: bool) -> Iterator[Autocast | None]:
    """Within it, the device computes under autocast, and says so where it is asked."""
    if not enabled:
        yield None
        return
    is_enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype

    def says_enabled(kind: str = "cuda") -> bool:
        return kind == DEVICE.type or is_enabled(kind)

    def says_dtype(kind: str) -> torch.dtype:
        return torch.bfloat16 if kind == DEVICE.type else dtype_of(kind)

    mode = Autocast()
    with patch("torch.is_autocast_enabled", says_enabled), patch("torch.get_autocast_dtype", says_dtype), mode:
        yield mode


def run_backward(loss: Tensor) -> None:
    """Does what `loss.backward()` does, with autocast in what is recomputed meanwhile.

    Every public way is a function of torch itself, within which modes such as `Autocast` are switched off.
    """
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
