"""From the host to a device without a wait.

A GPU works on what it was asked for while the host asks for more. Two things make the host wait until it is done: a
value that is read back, and a copy of memory that the system may move (*pageable* memory). So a step is planned from
what the host knows, and what it plans is sent from pinned memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def send(tensor: Tensor, device: Any) -> Tensor:
    """Returns a tensor of the host on a device; the host goes on at once. What lies on a device is moved as ever."""
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)
