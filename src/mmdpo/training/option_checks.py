"""Which options of a run go together, on this machine and with what is installed; `ranges` has the numbers alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from mmdpo.registry import name_nearest

if TYPE_CHECKING:
    from mmdpo.training.config import MDPOConfig

logger = logging.getLogger(__name__)

_CROPS = ("crop_0_20", "crop_20_50")
"""Corruptions that `crop_space: processed` can move after the image processor."""

_CHECKPOINTING = (
    *(name for name, of in signature(checkpoint).parameters.items() if of.kind is of.KEYWORD_ONLY),
    *("preserve_rng_state", "every_n_layers", "offload"),
)
"""What `gradient_checkpointing_kwargs` may hold: keywords of torch, and those that transformers reads itself."""


def check_precision(options: MDPOConfig) -> None:
    """Raises ValueError for a precision that the device has not; torch says so in the first step, or not at all."""
    for name in ("fp16", "fp16_full_eval"):
        if getattr(options, name) and (options.use_cpu or not torch.accelerator.is_available()):
            raise ValueError(f"{name}: true needs a GPU, and this run has none: leave it out")
    for name in ("bf16", "bf16_full_eval"):
        if getattr(options, name) and not options.use_cpu and not bf16_works():
            raise ValueError(
                f"{name}: true needs a GPU with bfloat16, and there is none here: leave it out (bf16 is on by "
                "itself where a GPU has it), or set use_cpu: true to train in bfloat16 on the CPU"
            )


def check_combinations(options: MDPOConfig) -> None:
    """Raises ValueError for options that do not go together, or are none of their choices."""
    objective = options.build_objective()
    options.build_corruptions()
    if options.image_terms == "where_possible" and all(term.needs_image for term in objective.terms):
        raise ValueError(
            "image_terms: where_possible trains rows without an image by the terms that need none, and every term of "
            "the objective needs one: leave it out; on_bad_row: skip leaves out such rows"
        )
    if options.crop_space == "processed" and options.corruption not in _CROPS:
        raise ValueError(f"crop_space: processed works with {' and '.join(_CROPS)}, not with {options.corruption}")
    if options.corruption_per_epoch and options.dataloader_persistent_workers:
        raise ValueError(
            "corruption_per_epoch needs workers that start anew each epoch: turn dataloader_persistent_workers off"
        )
    if options.corruption_draw == "picture" and any(c.needs_other_image for c in options.build_corruptions().values()):
        raise ValueError(
            "corruption_draw: picture draws one corruption for all rows with a picture, and random_image shows "
            "another picture for each row: leave it out"
        )
    if options.train_sampling_strategy == "group_by_image" and options.per_device_train_batch_size < 2:
        raise ValueError(
            "train_sampling_strategy: group_by_image brings rows with one picture into a micro-batch, and "
            "per_device_train_batch_size is 1: raise it, or leave the strategy out"
        )
    if options.train_sampling_strategy in ("group_by_length", "batch_rebalance") and options.check_data != "full":
        raise ValueError(
            f"train_sampling_strategy: {options.train_sampling_strategy} needs the length of every row, which only "
            "check_data: full counts"
        )
    check_steps(options)
    check_schedule(options)
    # The parser of recipes checks choices too; a configuration made in Python comes here alone.
    for option in fields(options):
        choices, value = option.metadata.get("choices"), getattr(options, option.name)
        if choices is not None and "decides" in option.metadata and value not in choices:
            raise ValueError(f"{option.name} must be one of {', '.join(choices)}; got {value!r}")


def check_steps(options: MDPOConfig) -> None:
    """Raises ValueError for options of transformers that a step or an evaluation, as they are here, cannot follow."""
    loading: Any = options.accelerator_config
    parallel: Any = options.parallelism_config
    for is_set, why in (
        (
            options.label_smoothing_factor,
            "label_smoothing_factor smooths the labels of supervised training; use label_smoothing",
        ),
        (
            options.enable_jit_checkpoint,
            "enable_jit_checkpoint saves in the middle of a step; leave it out: after SIGTERM a run saves by itself",
        ),
        (
            options.neftune_noise_alpha is not None,
            "neftune_noise_alpha: its noise differs between policy and reference, and rewards would measure it",
        ),
        (
            options.torch_compile,
            "torch_compile: a compiled model does not notice what each step changes in it, such as a head that gives "
            "log-probabilities; leave it out, and torch_compile_backend and torch_compile_mode with it",
        ),
        (
            options.use_liger_kernel,
            "use_liger_kernel replaces layers after the references were scored, and rewards would measure the "
            "difference; leave it out: logits are made in chunks, for answers alone, without it",
        ),
        (
            options.include_num_input_tokens_seen != "no",
            "include_num_input_tokens_seen counts the `input_ids` of a batch, and a batch of pairs has none: leave it "
            "out",
        ),
        (
            "inputs" in options.include_for_metrics,
            "include_for_metrics: inputs are the `input_ids` of a batch, and a batch of pairs has none: leave inputs "
            "out; the labels that compute_metrics is given are the places of the rows",
        ),
        (
            loading.dispatch_batches,
            "accelerator_config: dispatch_batches cuts batches into one part for each process, and a batch of pairs, "
            "whose rows share pictures, cannot be cut: leave it out",
        ),
        (
            isinstance(parallel, Mapping),
            "parallelism_config takes an accelerate.ParallelismConfig, which only Python can make: leave it out of the "
            "recipe; fsdp and deepspeed spread a model over GPUs",
        ),
        (
            getattr(parallel, "cp_enabled", False) or getattr(parallel, "sp_enabled", False),
            "parallelism_config: cp_size and sp_size cut rows into parts for several processes, and the answers in a "
            "row share its prompt: leave them out",
        ),
        (
            options.dataloader_persistent_workers and not options.dataloader_num_workers,
            "dataloader_persistent_workers: there are no workers to keep: set dataloader_num_workers, or leave it out",
        ),
    ):
        if is_set:
            raise ValueError(why)
    kept: Any = options.gradient_checkpointing_kwargs or getattr(options, "activation_checkpointing_kwargs", None) or {}
    if kept.get("offload") and (options.use_cpu or not torch.accelerator.is_available()):
        raise ValueError("gradient_checkpointing_kwargs: offload moves activations off a GPU, and this run has none")
    for name in kept:
        if name not in _CHECKPOINTING:
            raise ValueError(
                f"gradient_checkpointing_kwargs has no {name!r}{name_nearest(name, _CHECKPOINTING)} It takes "
                f"{', '.join(_CHECKPOINTING)}"
            )


def check_schedule(options: MDPOConfig) -> None:
    """Raises ValueError for a learning-rate schedule that cannot be made; Trainer makes it after the references."""
    optimizer, kind = torch.optim.SGD([torch.zeros(1)]), SchedulerType(options.lr_scheduler_type)
    given: Any = options.lr_scheduler_kwargs
    try:
        get_scheduler(kind, optimizer, num_warmup_steps=1, num_training_steps=2, scheduler_specific_kwargs=given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lr_scheduler_type: {kind.value} with lr_scheduler_kwargs {given or 'unset'}: {error}"
        ) from error


def check_optimizer(options: MDPOConfig, model: Any) -> None:
    """Raises ValueError for an optimizer that cannot be made of this model, as one that needs another package.

    Trainer makes it, and says so, after the references were scored.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(options, model)
    except (ImportError, ValueError) as error:
        raise ValueError(f"optim: {options.optim.value}: {error}") from error


def check_trust(options: MDPOConfig) -> None:
    """Warns of code that comes with a checkpoint, and leaves one place to ask for it."""
    if {"trust_remote_code", "use_safetensors"} & set(options.model_init_kwargs or {}):
        raise ValueError(
            "model_init_kwargs: trust_remote_code and allow_pickle (for use_safetensors) are options of their own"
        )
    if options.trust_remote_code:
        logger.warning(
            "trust_remote_code: Python files that come with the checkpoint are run in this process, with your "
            "rights and your tokens; read them first, and pin model_revision"
        )


def check_loggers(options: MDPOConfig) -> None:
    """Raises ValueError for a logger that is not there; transformers says so only after everything is loaded."""
    found = get_available_reporting_integrations()
    for name in options.report_to:
        # Of `flyte` transformers does not say whether it is there.
        if name not in found and name != "flyte":
            raise ValueError(
                f"report_to: {name} is not installed here, or no name of a logger (here are {', '.join(found)}): "
                "install it, or choose another one; none for none"
            )


def bf16_works() -> bool:
    """Says whether there is a GPU that has bfloat16."""
    from transformers.utils import is_torch_bf16_gpu_available

    return bool(is_torch_bf16_gpu_available())
