"""What mmdpo uses of transformers and torch that has no public name: each with its reason and the test that guards it.

What has a public name is used by it: attention kernels and masks from their registries, image features by the argument
`mm_encoder_outputs`, a finished mask as a tensor of four dimensions. Four methods of Trainer that begin with an
underscore are overridden in `training/durable/durable_trainer.py`, their class; test_seams.py lists them.
"""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAUSAL: Callable[..., Any] = causal_mask_function
"""The rule of plain causal layers. It is recognised by identity, since nothing else says that a rule is causal alone;
one that is not recognised is asked for every pair of places, which is slower and right (test_tree_attention.py)."""

PREPROCESS = "_preprocess"
"""The method of an image processor that takes all pictures through all steps; one that has its own is left alone
(test_pixels.py)."""

AS_EVER: Any = torch._C._disabled_torch_function_impl
"""As `__torch_function__` of a tensor's subclass: its shape, device and type are answered as those of any tensor
(test_tree_attention.py)."""

LOAD_REPORT = "LOAD REPORT"
"""Begins the log record about weights that `from_pretrained` made up; here they are an error (test_loading.py)."""


def is_write_failure(error: BaseException) -> bool:
    """Returns whether an error says that a file could not be written, as on a full disk.

    Those of safetensors, of `torch.distributed.checkpoint` and of `torch.save` are no OSErrors, and the last is a plain
    RuntimeError, known by its text alone (test_seams.py).
    """
    if isinstance(error, OSError | SafetensorError | CheckpointException):
        return True
    marks = ("PytorchStreamWriter", "inline_container.cc", "iostream error")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def train_batch_size_of(trainer: Any) -> int:
    """Returns the rows of a micro-batch, which `auto_find_batch_size` lowers without the options (test_seams.py)."""
    return int(trainer._train_batch_size)


def move_inputs(trainer: Any, inputs: Any) -> Any:
    """Returns a batch on the device and, with DeepSpeed, in the precision of a training step (test_seams.py)."""
    return trainer._prepare_inputs(inputs)


def count_changes(model: nn.Module) -> list[int]:
    """Returns how often each weight was written in place; moving it is not counted (test_seams.py)."""
    return [parameter._version for parameter in model.parameters()]


def commit_of(config: Any) -> str | None:
    """Returns the commit of the hub that a configuration was loaded from, None for a folder's (test_seams.py)."""
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


def is_kept_under_vision_model(module: nn.Module) -> bool:
    """Returns whether published checkpoints have what a module holds under `vision_model`, which transformers 5 drops.

    It knows by the class, and says so nowhere else than in its list of renamings (test_layout.py).
    """
    renamings = get_checkpoint_conversion_mapping(type(module).__name__) or ()
    return any(getattr(renaming, "prefix_to_remove", None) == "vision_model" for renaming in renamings)


def attention_of(module: nn.Module) -> str:
    """Returns the attention implementation of a model or its text decoder, such as `sdpa` (test_shared_rows.py)."""
    return str(module.config._attn_implementation)  # type: ignore[union-attr]


def attend(name: str, *args: Any, **kwargs: Any) -> Any:
    """Calls the attention of a registered implementation, as transformers' layers do."""
    return ALL_ATTENTION_FUNCTIONS[name](*args, **kwargs)


def attend_with_lse(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None) -> Any:
    """Returns output and log Σ exp of every query: what SDPA calls on a CPU, of which it gives the first alone.

    Shapes [1, H, Q, D] and [1, H, K, D] (test_merged_attention.py).
    """
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal, scale=scale)


def attend_with_lse_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float | None,
) -> Any:
    """Returns the gradients of queries, keys and values of `attend_with_lse` (test_merged_attention.py)."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, lse, 0.0, is_causal, scale=scale
    )


def make_mask(name: str, **kwargs: Any) -> Any:
    """Calls the mask function of a registered implementation, as transformers' models do."""
    return ALL_MASK_ATTENTION_FUNCTIONS[name](**kwargs)


def make_valueless(kind: type[Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Any:
    """Returns a tensor of a subclass that has a shape and no values, on any device (test_tree_attention.py)."""
    return Tensor._make_wrapper_subclass(kind, shape, dtype=dtype, device=device)


def has_hooks(module: nn.Module) -> bool:
    """Returns whether something runs before or after a module's forward, or in its place (test_seams.py)."""
    return bool(module._forward_pre_hooks or module._forward_hooks) or "forward" in vars(module)
