"""Counts what would make a GPU's host wait: values that are read, and operations whose result has an unknown size."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "bincount", "nonzero", "unique", "equal")


class CountWaits(TorchDispatchMode):
    """Counts them while it is entered; a tensor that becomes a list at once is not seen on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation."""
        self.count += function.name().removeprefix("aten::").partition(".")[0] in WAITING
        return function(*args, **(kwargs or {}))
