"""A device that is not there: shapes and types of what lies on it, and an error for whoever would wait for it.

PyTorch's `FakeTensorMode` computes shapes in place of values. Here tensors of the device are fake and those of the host
are real, as they are while a GPU works: what the host plans has values, and what the device computes has none yet. So a
step that runs under `FakeDevice` runs on a GPU without a mix of devices, and without waiting for it.

The device is `meta`: a build of PyTorch for CPUs cannot differentiate what lies on `cuda`, and nothing in a step may
depend on how a device is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten

DEVICE = torch.device("meta")


class WaitError(RuntimeError):
    """A copy that lets the host wait for the device."""


class FakeDevice(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A device of shapes, within `running()`.

    Reading a value raises PyTorch's DataDependentOutputException, a result whose size depends on values its
    DynamicOutputShapeException, a mix of devices a RuntimeError, a copy that waits a WaitError. With `waits` none of
    this is asked for, so that code which waits can be counted, too: integers stay on the host, where they have values,
    and whatever else is read is 1. Attention is given to the kernels that a GPU would take.
    """

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits = waits

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, what is made or computed on the device is fake."""
        with ExitStack() as stack:
            if not self.waits:
                stack.enter_context(_Constants())
            stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", _attention))
            stack.enter_context(self)
            yield

    @property
    def avoid_device_init(self) -> bool:
        """Nothing is ever made on the device, not even a constant."""
        return True

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes on the host what lies there, and shapes of everything else."""
        kwargs = kwargs or {}
        tensors = list_tensors((args, kwargs))
        is_fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        target = kwargs.get("device")
        goes = torch.device(target) if target is not None else None
        if not is_fake and (goes is None or goes.type == "cpu"):
            return func(*args, **kwargs)
        if self.waits:
            return self._dispatch_leniently(func, types, args, kwargs, is_fake)
        _check_places(func, args, kwargs, tensors, goes)
        return super().dispatch(func, types, args, kwargs)

    def _dispatch_leniently(self, func: Any, types: Any, args: Any, kwargs: Any, is_fake: bool) -> Any:
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten._to_copy.default and not is_fake and not args[0].is_floating_point():
            return func(*args, **{**kwargs, "device": None})
        if func is aten._to_copy.default and is_fake:  # it stays where it is, also on its way to the host
            kwargs = {**kwargs, "device": args[0].device}
        if func is aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _as_places(index)])

        def bring(tensor: Tensor) -> Any:
            if isinstance(tensor, FakeTensor) or tensor.device.type != "cpu":
                return tensor
            fake: Any = super(FakeDevice, self).dispatch(
                aten.empty_strided.default, (), (tensor.shape, tensor.stride()), dict(dtype=tensor.dtype, device=DEVICE)
            )
            return fake

        if any(tensor.device.type == "cpu" for tensor in list_tensors((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, bring, (args, kwargs))
        return super().dispatch(func, types, args, kwargs)


class _Constants(TorchFunctionMode):
    """Raises WaitError for a tensor that is made on the device from numbers of Python: they are copied, and waited for.

    Of this copy no operation is heard.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], Tensor):
            place = kwargs.get("device")
            if place is not None and torch.device(place).type != "cpu":
                raise WaitError(f"{func.__name__} makes a tensor on the device by a copy that waits")
        return func(*args, **kwargs)


def _as_places(index: Tensor | None) -> list[Tensor | None]:
    """Returns the places that an index of the host names, since the size of what a mask picks is known there alone."""
    if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool:
        return [index]
    return list(index.nonzero(as_tuple=True))


_attention_elsewhere = F.scaled_dot_product_attention


def _attention(query: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Gives attention on the device to the kernel that an H100 has for it; for shapes PyTorch knows none."""
    return (_attend if query.device == DEVICE else _attention_elsewhere)(query, *args, **kwargs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Flash attention without a mask, in 16 bits; memory-efficient attention, which takes its mask as a bias, else."""
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= 256:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    bias = None
    if attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros(attn_mask.shape, dtype=query.dtype, device=DEVICE).masked_fill(
                attn_mask.logical_not(), -torch.inf
            )
        if missing := -bias.shape[-1] % 16:  # the kernel reads whole lines
            bias = F.pad(bias, (0, missing))[..., : bias.shape[-1]]
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needs_gradient, dropout_p, is_causal, scale=scale
    )[0]


def list_tensors(values: Iterable[Any]) -> list[Tensor]:
    """Returns the tensors in what an operation is given or returns; PyTorch's `tree_flatten` takes far longer."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += list_tensors(value)
        elif isinstance(value, dict):
            found += list_tensors(value.values())
    return found


def _check_places(func: Any, args: Any, kwargs: Any, tensors: list[Tensor], goes: torch.device | None) -> None:
    """Raises WaitError for a copy that waits, and where the device would have to reach for what lies on the host."""
    on_host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if func is aten._to_copy.default and goes is not None:
        if on_host and goes.type != "cpu" and not kwargs.get("non_blocking"):
            raise WaitError("a tensor of the host is moved to the device by a copy that waits (.to)")
        if not on_host and goes.type == "cpu":
            raise WaitError("a tensor of the device is moved to the host (.cpu, .to)")
        return
    is_index = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
    # One number of the host travels as an argument of the kernel; as an index it is copied, like any other.
    reached = [v for v in on_host if v.dim() or is_index]
    if func is aten.copy_.default:
        if len(on_host) == 1 and args[0].device.type == "cpu":
            raise WaitError("a tensor of the device is copied to the host (copy_)")
        if reached and len(on_host) == 1 and not (len(args) > 2 and args[2]):
            raise WaitError("a tensor of the host is copied to the device by a copy that waits (copy_)")
        return
    if reached and any(tensor.device.type != "cpu" for tensor in tensors):
        raise WaitError(f"{func} is given a tensor of the host beside one of the device")


def place_model(model: nn.Module, device: FakeDevice, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Replaces every parameter and buffer of a model by a fake one on the device; tied ones stay tied."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            with device:
                empty = torch.empty(tensor.shape, dtype=kind, device=DEVICE)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
        return made[id(tensor)]

    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    kept[name] = fake(tensor)  # type: ignore[assignment]
    return model


def place_batch(batch: Any, device: FakeDevice) -> Any:
    """Returns a batch as it is once it was moved: tensors are fake and on the device, all else is as it was."""

    def fake(tensor: Tensor) -> Tensor:
        with device:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)

    return tree_map_only(Tensor, fake, batch)
