"""MDPOConfig: the options of a run, in TRL's names where TRL has one."""

from __future__ import annotations

import copy
import logging
import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from mmdpo.corruption import Corruption
from mmdpo.corruption import load as load_corruption
from mmdpo.files import read_mapping
from mmdpo.keys import explain_unknown
from mmdpo.models.families import PARTS
from mmdpo.models.start import LoadOptions
from mmdpo.objective import Objective, build_objective
from mmdpo.records import CORRUPTED, NO_IMAGE, ORIGINAL, image_versions
from mmdpo.training.option_checks import bf16_works, check_combinations, check_loggers, check_precision, check_trust
from mmdpo.training.ranges import check_ranges

logger = logging.getLogger(__name__)

SECRETS = ("hub_token", "push_to_hub_token", "token", "use_auth_token")
"""Keys whose values are never written to disk or to a log, inside `model_init_kwargs` neither."""

MAPPINGS = (
    "corruption_options", "model_init_kwargs", "lr_scheduler_kwargs", "gradient_checkpointing_kwargs",
    "chat_template_kwargs",
)  # fmt: skip
"""Options that are mappings, which flags and recipes may write as JSON."""

SHARDING = ("FSDP", "DEEPSPEED")
"""What `accelerate launch` calls the engines that spread a model over processes."""


def _option(default: Any, decides: str, help_text: str, **metadata: Any) -> Any:
    """Returns a field. `decides` is one of `mmdpo.keys.DECIDES`; resuming, processes and cards compare by it."""
    return field(default=default, metadata={"help": help_text, "decides": decides, **metadata})


@dataclass
class MDPOConfig(TrainingArguments):
    """Options of `MDPOTrainer`: every field of `transformers.TrainingArguments`, and those below.

    Defaults that differ from transformers' are the paper's (learning rate 1e-5, cosine schedule, warm-up over a tenth
    of the steps, three epochs), or TRL's (a log every 10 steps, gradient checkpointing, bf16 where a GPU has it).
    Raises ValueError for values that cannot work together, naming the keys.
    """

    # Defaults of TrainingArguments that differ here
    learning_rate: float = _option(1e-5, "loss", "Peak learning rate of AdamW.")
    lr_scheduler_type: str = _option("cosine", "loss", "Learning-rate schedule.")
    warmup_steps: float = _option(0.1, "loss", "Warm-up: a number of steps, or a share of all steps if below 1.")
    logging_steps: float = _option(10, "running", "Log every so many steps; a share of all steps if below 1.")
    gradient_checkpointing: bool | None = _option(
        None, "running", "Recompute activations in the backward pass to save memory. Unset: on."
    )
    train_sampling_strategy: str = _option(
        "random",
        "loss",
        "Order of the training rows; group_by_image brings rows with one picture into a micro-batch.",
        choices=["random", "sequential", "group_by_length", "batch_rebalance", "group_by_image"],
    )
    bf16: bool | None = _option(None, "loss", "bfloat16 mixed precision. Unset: on where a GPU supports it.")
    logging_nan_inf_filter: bool = _option(
        False, "running", "Leave losses that are not finite out of logs; here they are errors."
    )
    label_names: list[str] | None = _option(None, "running", "Names of labels; preference batches have none.")
    greater_is_better: bool | None = _option(
        None,
        "running",
        "Whether the best model has the greatest metric_for_best_model. Unset: no for a loss, else yes.",
    )
    eval_strategy: str | None = _option(
        None,
        "running",
        "When to evaluate: no, steps or epoch. Unset: once, at the end, where there is an evaluation dataset.",
        choices=["no", "steps", "epoch"],
    )
    remove_unused_columns: bool = _option(False, "running", "Ignored: rows are read by dataset format, not by column.")

    # The objective
    objective: str = _option(
        "mdpo",
        "loss",
        "A preset (mdpo, dpo, rdpo, …), package.module:NAME, or a list of terms. See docs/objectives.md.",
    )
    beta: float = _option(0.1, "loss", "β: how far rewards let the policy move from the reference.")
    loss_type: str = _option("sigmoid", "loss", "Loss of the term that ranks responses: a name of TRL's, such as ipo.")
    label_smoothing: float = _option(0.0, "loss", "Probability that a response preference is wrong, in [0, 0.5).")

    # The corrupted image
    corruption: str = _option("crop_0_20", "loss", "How the corrupted image is made, or package.module:function.")
    corruption_options: dict[str, Any] | str | None = _option(
        None, "loss", "Options of the corruption, such as {step: 700}."
    )
    corruption_per_epoch: bool = _option(False, "loss", "Make a fresh corrupted image for every epoch.")
    corruption_draw: str = _option(
        "row",
        "loss",
        "Draw a corruption for each row (row), or one for all rows with a picture (picture), which are then scored "
        "together.",
        choices=["row", "picture"],
    )
    image_terms: str = _option(
        "required",
        "loss",
        "Rows without an image under an objective with corrupted images: faulty (required), or trained by the terms "
        "that need none (where_possible).",
        choices=["required", "where_possible"],
    )
    corrupted_images: str = _option(
        "all",
        "loss",
        "Corrupt all images of a row, or those of its demonstrations, which is all but the last.",
        choices=["all", "demonstrations"],
    )
    crop_space: str = _option(
        "image",
        "loss",
        "Crop the picture before processing (image), or the processed tensor (processed).",
        choices=["image", "processed"],
    )

    # The model
    model_init_kwargs: dict[str, Any] | str | None = _option(None, "content", "Keyword arguments of from_pretrained.")
    adapter_name_or_path: str | None = _option(
        None, "content", "A trained adapter on model_name_or_path to train further; the reference is its start."
    )
    trust_remote_code: bool = _option(
        False, "running", "Run Python code that comes with the checkpoint. Off unless asked for."
    )
    chat_template: str | None = _option(
        None,
        "content",
        "Jinja file that replaces the processor's chat template; vicuna is that of LLaVA-1.5 and Bunny.",
    )
    chat_template_kwargs: dict[str, Any] | str | None = _option(
        None,
        "content",
        "Variables that the chat template reads, such as {enable_thinking: false}; kept in the saved template.",
    )
    pad_to_square: bool = _option(
        False, "content", "LLaVA-1.5: pad pictures to a square, as in its training; no cropping."
    )
    allow_pickle: bool = _option(False, "running", "Open pickled weights where a checkpoint has no safetensors.")
    disable_dropout: bool = _option(True, "loss", "Set every dropout to zero, in policy and reference.")
    attention: str = _option(
        "auto",
        "running",
        "Whether cells under the same images share one row with their prompt (shared) or not (separate); auto shares "
        "where a probe finds that the model scores alike.",
        choices=["auto", "shared", "separate"],
    )
    probe: bool = _option(
        True,
        "running",
        "Before training, score two rows as the run will and by plain forwards, and stop where they differ; decides "
        "whether rows are shared.",
    )
    max_tokens_per_row: int | None = _option(
        None,
        "running",
        "With shared rows, pack several pairs into a row of up to so many tokens. Unset: the whole micro-batch.",
    )
    freeze_vision_tower: bool = _option(True, "loss", "Keep the vision tower as it is.")
    freeze_projector: bool = _option(
        True, "loss", "Keep the projector between vision tower and language model as it is."
    )

    # The data
    max_length: int | None = _option(
        2048, "loss", "Longest row in tokens, image tokens included; longer answers are cut."
    )
    dataset_num_proc: int | None = _option(
        None, "machine", "Workers that try the rows before training, in each process. Unset: dataloader_num_workers."
    )
    dataset_format: str = _option(
        "auto", "content", "Format of the rows; auto decides by the columns of the first rows."
    )
    shuffle_buffer_size: int | None = _option(
        None, "loss", "Of a stream: rows that a dataloader worker holds and shuffles among each other. Unset: 1000."
    )
    image_root: str | None = _option(None, "machine", "Folder that relative image paths start from.")
    eval_dataset_name: str | None = _option(None, "content", "Dataset to evaluate on, named as dataset_name is.")
    eval_stream_rows: int = _option(
        1000, "running", "Of a streamed eval_dataset: rows, from its beginning, that are evaluated."
    )
    test_split_size: float | None = _option(
        None, "content", "Share of the training rows that is kept for evaluation instead."
    )
    check_data: str = _option(
        "full",
        "running",
        "Before training, try every row as training would (full), or, unless references are scored, its text (text).",
        choices=["full", "text"],
    )
    on_bad_row: str = _option("error", "running", "What a faulty row does: error, or skip.", choices=["error", "skip"])
    max_image_pixels: int = _option(100_000_000, "running", "Images beyond this many pixels are faulty rows.")

    decisions: str | None = _option(
        None, "content", "File of decisions, written by `mmdpo app`: rows that it drops are left out."
    )

    # The reference
    ref_model_name_or_path: str | None = _option(
        None, "content", "The reference model. Unset: what the policy starts from."
    )
    precompute_ref_log_probs: bool | None = _option(
        None,
        "running",
        "Score the dataset with the reference before training, once for all runs. Unset: on, unless sharded.",
    )
    precompute_ref_batch_size: int | None = _option(
        None, "running", "Batch size of that pass. Unset: per_device_train_batch_size."
    )
    ref_cache_dir: str | None = _option(
        None,
        "machine",
        "Folder that keeps what that pass has scored. Unset: mmdpo/references in the Hugging Face home.",
    )

    # What is shown on the way
    sample_answers_steps: int | None = _option(
        None, "running", "Every so many steps, answer a few prompts and log it with their images. Unset: never."
    )
    sample_answers: int = _option(
        4, "running", "How many: the first examples of the evaluation dataset, else of training."
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Says of an unknown option what to use; Python would only say that it is unexpected."""
        known = cls.__dataclass_fields__
        for name in kwargs.keys() - known:
            raise TypeError(f"MDPOConfig has no {name}{explain_unknown(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in MAPPINGS:
            setattr(self, name, read_mapping(name, getattr(self, name, None)))
        losses: Any = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type  # TRL takes a list
        if len(losses) != 1:
            raise ValueError("loss_type: combine losses as terms of `objective:` instead of a list of types")
        self.loss_type = str(losses[0])
        check_precision(self)
        self.evaluates_at_end = self.eval_strategy != "no"
        if self.eval_strategy is None:
            self.eval_strategy = "no"
        if self.greater_is_better is None:
            # transformers takes `loss/anchor_chosen` for no loss.
            metric = self.metric_for_best_model
            self.greater_is_better = None if metric is None else re.search(r"(^|_)loss(/|$)", metric) is None
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for, and torch warns
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and bf16_works()
        if self.label_names is None:
            self.label_names = []
        # TRL's name stands for the newer one, which transformers would otherwise warn about.
        newer = getattr(self, "activation_checkpointing", None)
        chosen = self.gradient_checkpointing if newer is None else newer
        self.gradient_checkpointing = True if chosen is None else chosen
        if hasattr(self, "activation_checkpointing"):
            self.activation_checkpointing = self.gradient_checkpointing
        if self.deepspeed and find_spec("deepspeed") is None:
            raise ImportError("deepspeed is set, and DeepSpeed is not installed: pip install deepspeed")
        loads_as_ever = self.accelerator_config is None
        super().__post_init__()
        if loads_as_ever and self.dataloader_pin_memory:
            self.accelerator_config.non_blocking = True  # batches are sent while the device still works
        kept: Any = self.gradient_checkpointing_kwargs or getattr(self, "activation_checkpointing_kwargs", None) or {}
        # A tower has layers that give no features, and a batch without images uses neither tower nor projector.
        # Checkpoints of the reentrant kind do not go with it.
        has_unused = self.trained_parts != ("language_model",) and not kept.get("use_reentrant")
        if getattr(self, "ddp_find_unused_parameters", None) is None and has_unused:
            self.ddp_find_unused_parameters = True
        check_loggers(self)
        check_trust(self)
        self.asked_for_reference_pass = bool(self.precompute_ref_log_probs)
        if self.precompute_ref_log_probs is None:
            # Where FSDP or DeepSpeed spreads the model over processes, the pass has not all of it in each.
            by_launcher = any(
                os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true") for name in SHARDING
            )
            self.precompute_ref_log_probs = not (by_launcher or self.fsdp or self.deepspeed)
        check_combinations(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as loggers write them down, without tokens."""
        return {key: without_secrets(value) for key, value in super().to_dict().items()}

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.to_dict().items())
        return f"{type(self).__name__}({options})"

    __repr__ = __str__  # a dataclass would print every field, tokens too

    def __copy__(self) -> MDPOConfig:
        """Returns a copy with the tokens, which pickles lack; dictionaries among the options are its own, too."""
        copied = object.__new__(type(self))
        copied.__dict__ |= {key: dict(value) if type(value) is dict else value for key, value in vars(self).items()}
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Leaves tokens out of pickles: Trainer saves its arguments as training_args.bin beside the model."""
        return {key: None if key in SECRETS else without_secrets(value) for key, value in vars(self).items()}

    def with_changes(self, **changes: Any) -> MDPOConfig:
        """Returns a copy in which some options have other values; what is given stays as it is."""
        copied = copy.copy(self)
        for name, value in changes.items():
            setattr(copied, name, value)
        return copied

    def load_options(self) -> LoadOptions:
        """Returns how the model is opened. Processes of one run place it on their own devices themselves."""
        arguments: dict[str, Any] = dict(self.model_init_kwargs or {})  # type: ignore[arg-type]
        if self.distributed_state is not None and self.distributed_state.num_processes > 1:
            arguments["device_map"] = None
        variables: Any = self.chat_template_kwargs
        return LoadOptions(
            adapter=self.adapter_name_or_path,
            arguments=arguments,
            chat_template=self.chat_template,
            chat_template_kwargs=variables,
            pad_to_square=self.pad_to_square,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts of the model that move."""
        frozen = {"projector": self.freeze_projector, "vision_tower": self.freeze_vision_tower}
        return tuple(part for part in PARTS if not frozen.get(part, False))

    def build_objective(self) -> Objective:
        """Returns the objective that the options describe."""
        return build_objective(self.objective).with_response_loss(self.loss_type, self.label_smoothing)

    def build_corruptions(self) -> dict[str, Corruption]:
        """Returns how each image version that the objective needs is made; `corrupted` is always among them.

        A version of another name is the corruption of that name, with its default options.
        """
        options = self.corruption_options or {}
        assert isinstance(options, dict), "parsed by TrainingArguments"
        named = set(image_versions(self.build_objective().cells)) - {ORIGINAL, NO_IMAGE, CORRUPTED}
        return {
            CORRUPTED: load_corruption(self.corruption).with_options(**options),
            **{name: load_corruption(name) for name in sorted(named)},
        }


def without_secrets(value: Any) -> Any:
    """Returns a value with the secret keys of mappings left out, at every depth."""
    if isinstance(value, dict):
        return {key: without_secrets(entry) for key, entry in value.items() if key not in SECRETS}
    return value
