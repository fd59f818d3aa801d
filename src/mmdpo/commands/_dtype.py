"""The precisions that a verb takes by name."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


def find_dtype(name: Dtype | None) -> Any:
    """Returns torch's dtype of that name; None for None."""
    import torch

    return None if name is None else getattr(torch, name)
