"""What mmdpo reads of transformers and torch that has no public name: each with its reason and the test that guards it.

What has a public name is taken by it: attention kernels and masks from their registries, image features by the
argument `mm_encoder_outputs`, a finished mask as a tensor of four dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAUSAL: Callable[..., Any] = causal_mask_function
"""The rule of plain causal layers. It is recognised by identity, since nothing else says that a rule is causal alone;
one that is not recognised is asked for every pair of places, which is slower and right (test_tree_attention.py)."""

LOAD_REPORT = "LOAD REPORT"
"""Begins the log record about weights that `from_pretrained` made up; here they are an error (test_loading.py)."""

WRITE_FAILURES = ("PytorchStreamWriter", "inline_container.cc", "iostream error")
"""In the RuntimeErrors of `torch.save` where a disk is full: it raises no OSError (test_checkpointing.py)."""


def attention_of(module: nn.Module) -> str:
    """Returns the attention implementation of a model or its text decoder: `sdpa`, `eager`, or a registered name.

    There is `set_attn_implementation`, and no public name to read it by (test_shared_rows.py).
    """
    return str(module.config._attn_implementation)  # type: ignore[union-attr]


def attend(name: str, *args: Any, **kwargs: Any) -> Any:
    """Calls the attention of a registered implementation, as transformers' layers do."""
    return ALL_ATTENTION_FUNCTIONS[name](*args, **kwargs)


def make_mask(name: str, **kwargs: Any) -> Any:
    """Calls the mask function of a registered implementation, as transformers' models do."""
    return ALL_MASK_ATTENTION_FUNCTIONS[name](**kwargs)
