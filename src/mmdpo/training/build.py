"""Builds what a run trains: model, processor, adapter, and which parameters move."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from mmdpo.data.collate import Collator
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.adapters import (
    Start,
    check_quantised,
    continue_adapter,
    count_bits,
    find_start,
    resolve_model,
    unwrap_adapter,
)
from mmdpo.models.families import VICUNA, Family, find_family
from mmdpo.models.load import explained, has_pickles_alone, load_configuration, load_whole_model
from mmdpo.models.modes import disable_dropout, keep_layout_of_4_bits
from mmdpo.models.movement import describe_unreached
from mmdpo.records import Cell, image_versions
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.logprobs import find_suppressed
from mmdpo.training.config import MDPOConfig

__all__ = ["disable_dropout", "resolve_model", "unwrap_adapter"]

logger = logging.getLogger(__name__)

PARTS = ("language_model", "projector", "vision_tower")


def load_model(name: str, args: MDPOConfig) -> Any:
    """Returns the vision-language model of a hub name, a local folder, or an embedded world (`world`).

    Where `name` is an adapter, or `adapter_name_or_path` names one, it is a PeftModel with that adapter.
    Weights are loaded in float32 unless `model_init_kwargs` names a dtype, as TRL does, and from safetensors alone
    unless `allow_pickle` is set. Raises ValueError for a model that is no vision-language model, for weights that do
    not fit its configuration, and an adapter that does not fit the model; OSError for weights that are missing or
    pickled.
    """
    start = find_start(name, args)
    kwargs: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    kwargs.setdefault("dtype", "float32")
    kwargs |= dict(trust_remote_code=args.trust_remote_code, revision=start.revision or "main")
    if not args.allow_pickle:
        kwargs["use_safetensors"] = True
    if args.distributed_state is not None and args.distributed_state.num_processes > 1:
        kwargs["device_map"] = None
    try:
        model = load_whole_model(start.base, **kwargs)
    except OSError as error:
        if args.allow_pickle or not has_pickles_alone(start.base, **_where(start, args)):
            raise
        raise OSError(
            f"{name} has no weights in safetensors, and opening its pickles (pytorch_model.bin) can run code: take "
            "a checkpoint in safetensors, or set allow_pickle: true"
        ) from error
    return model if start.adapter is None else continue_adapter(model, start, args, trained_parts(args))


def build_empty_model(config: Any, args: MDPOConfig) -> PreTrainedModel:
    """Returns a model of this configuration, in the options' precision, whose weights are shapes without memory."""
    kwargs = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    dtype = kwargs.get("dtype") or "float32"
    options = {"attn_implementation": kwargs["attn_implementation"]} if kwargs.get("attn_implementation") else {}
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config,
            dtype=(config.dtype or "float32") if dtype == "auto" else dtype,
            trust_remote_code=args.trust_remote_code,
            **options,
        )
    return model


def load_config(name: str, args: MDPOConfig) -> Any:
    """Returns a model's configuration.

    Raises ValueError for a model that is no vision-language model or has to be converted, OSError for one that cannot
    be found.
    """
    start = find_start(name, args)
    with explained("model", name):
        config = load_configuration(start.base, trust_remote_code=args.trust_remote_code, **_where(start, args))
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not args.trust_remote_code:
        raise ValueError(
            f"{name} is a {config.model_type} model, which transformers does not load as an image-text-to-text model; "
            "mmdpo trains vision-language models"
        )
    return config


def load_processor(name: str, args: MDPOConfig) -> ProcessorMixin:
    """Returns the processor that belongs to a model.

    Raises ValueError where it reads no images, OSError for one that cannot be found.
    """
    start = find_start(name, args)
    with explained("processor of", name):
        processor = AutoProcessor.from_pretrained(
            start.processor, trust_remote_code=args.trust_remote_code, **_where(start, args)
        )
    check_processor(processor)
    if args.chat_template is not None:
        processor.chat_template = read_template(args.chat_template)
    if args.chat_template_kwargs:
        set_template_variables(processor, args.chat_template_kwargs)
    if args.pad_to_square:
        find_family(load_config(name, args)).pad_to_square(processor)
    return processor


def _where(start: Start, args: MDPOConfig) -> dict[str, Any]:
    options = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    return {"revision": start.revision or "main", "token": options.get("token")}


def read_template(name: str) -> str:
    """Returns the chat template of a file, or of LLaVA-1.5 (`vicuna`). Raises ValueError for a missing file."""
    path = VICUNA if name == "vicuna" else Path(name)
    if not path.is_file():
        raise ValueError(f"chat_template: there is no file {name}; give a Jinja file, or vicuna")
    return path.read_text(encoding="utf-8")


def set_template_variables(processor: Any, variables: Any) -> None:
    """Gives variables of a processor's chat template the values that they have where a caller names none.

    They become part of the template, so that whoever renders with this processor, or with one saved beside a trained
    model, renders alike. Raises ValueError where there is no template, or it reads no variable of such a name.
    """
    template = processor.chat_template
    if not template:
        raise ValueError("chat_template_kwargs: the model's processor has no chat template; name one (chat_template)")
    if isinstance(template, dict):  # several by name, as tools and retrieval have theirs
        template = template["default"]
    for name, value in variables.items():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(f"chat_template_kwargs: the chat template reads no variable {name!r}")
        written = "none" if value is None else json.dumps(value)
        template = f"{{%- if {name} is not defined -%}}{{%- set {name} = {written} -%}}{{%- endif -%}}{template}"
    processor.chat_template = template


def load_generation_config(name: str, args: MDPOConfig) -> GenerationConfig | None:
    """Returns a model's generation config, None where it has none."""
    start = find_start(name, args)
    try:
        return GenerationConfig.from_pretrained(start.base, **_where(start, args))
    except OSError:
        return None


def build_collator(
    processor: Any, config: Any, args: MDPOConfig, generation_config: GenerationConfig | None = None
) -> Collator:
    """Returns the collator that makes batches of what the objective's cells need, for a model of this configuration.

    A row with a token in an answer that the generation config suppresses is faulty.
    """
    objective = args.build_objective()
    versions = image_versions(objective.cells)
    prepare = Preparer(
        renderer=Renderer(processor, find_family(config)),
        cells=objective.cells,
        corruptions={name: made for name, made in args.build_corruptions().items() if name in versions},
        seed=args.seed,
        crop_space=args.crop_space,
        max_image_pixels=args.max_image_pixels,
        suppressed=frozenset(find_suppressed(generation_config)),
        needs_rejected_images=objective.needs_rejected_images,
    )
    return Collator(prepare, args.max_length, objective.weight_columns, find_context_length(config))


def find_context_length(config: Any) -> int | None:
    """Returns how many tokens a model reads, None where its configuration does not say it plainly.

    Under scaled rotary positions `max_position_embeddings` may mean the length before or after scaling.
    """
    text = config.get_text_config()
    is_scaled = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default") != "default"
    return None if is_scaled else getattr(text, "max_position_embeddings", None)


def check_processor(processor: Any) -> None:
    """Raises ValueError unless the processor has a tokenizer and an image processor."""
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ValueError(
            f"processing_class is a {type(processor).__name__}; a vision-language model's processor, with an image "
            "processor and a tokenizer, is needed (AutoProcessor.from_pretrained)"
        )


def check_model(model: nn.Module) -> None:
    """Raises ValueError unless the model reads images."""
    if not any(callable(getattr(type(module), "get_image_features", None)) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no get_image_features: it is not a vision-language model that mmdpo can train"
        )


def build_scorer(model: nn.Module, family: Family, cells: tuple[Cell, ...], args: MDPOConfig) -> Scorer:
    """Returns the scorer of a model, sharing prompts between cells as `attention` says.

    Raises ValueError where `attention` is `shared` and the model cannot; with `auto` it is scored separately, and one
    line of the log says why.
    """
    why = family.why_separate(model)
    if why is not None and args.attention == "shared":
        raise ValueError(f"attention: shared does not work for this model: {why}; use attention: auto or separate")
    if why is not None and args.attention == "auto":
        logger.warning("attention: separate rows for every cell, which is slower: %s", why)
    shares_prefix = why is None and args.attention != "separate"
    return Scorer(model, family, cells, shares_prefix, args.max_tokens_per_row)


def trained_parts(args: MDPOConfig) -> tuple[str, ...]:
    """Returns the parts of the model that the options let move."""
    frozen = {"projector": args.freeze_projector, "vision_tower": args.freeze_vision_tower}
    return tuple(part for part in PARTS if not frozen.get(part, False))


def prepare_policy(model: Any, family: Family, peft_config: Any, args: MDPOConfig) -> Any:
    """Returns the model as it is trained: adapter added or parts frozen, dropout off.

    An adapter that a user's own PeftModel brings is left as it is. Raises ValueError where both the model and the
    options bring an adapter, and for quantised weights without one.
    """
    has_adapter = peft_config is not None or unwrap_adapter(model) is not model
    check_quantised(count_bits(unwrap_adapter(model)), args, has_adapter=has_adapter)
    keep_layout_of_4_bits(model)
    if peft_config is not None:
        model = add_adapter(model, family, peft_config, args)
    elif not has_adapter:
        freeze_parts(model, family, args)
    if args.bf16 or args.fp16:
        # Autocast brings both to 16 bits anyway; casting activations up to the adapters' float32 first is lost work.
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False
    if args.disable_dropout and (changed := disable_dropout(model)):
        logger.info("dropout is off in policy and reference (%d values set to 0)", changed)
    return model


def freeze_parts(model: nn.Module, family: Family, args: MDPOConfig) -> None:
    """Lets the trained parts move and keeps the others as they are."""
    parts, located = trained_parts(args), family.locate_parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(located.part_of(name) in parts)


def add_adapter(model: PreTrainedModel, family: Family, peft_config: Any, args: MDPOConfig) -> nn.Module:
    """Returns the model with a PEFT adapter on the trained parts alone.

    Without `target_modules`, or with `all-linear`, every linear layer of the language model is adapted, by full path.
    Names that the user gives are kept, and never reach a part that is frozen.
    """
    from peft import get_peft_model

    if unwrap_adapter(model) is not model:
        raise ValueError(
            "model is a PeftModel already, or names an adapter: give either an adapter in the model or peft_config "
            "(use_peft: true), not both"
        )
    parts, peft_config = trained_parts(args), copy.deepcopy(peft_config)  # the caller may use it again
    if peft_config.target_modules in (None, "all-linear", ["all-linear"], {"all-linear"}):
        peft_config.target_modules = family.lora_targets(model, parts)
    else:
        others = tuple(part for part in PARTS if part not in parts)
        peft_config.exclude_modules = _join_exclusions(
            getattr(peft_config, "exclude_modules", None),
            family.lora_exclusion(model, others, peft_config.target_modules),
        )
    adapted: nn.Module = get_peft_model(model, peft_config)
    if (unreached := describe_unreached(adapted, family, parts)) is not None:
        logger.warning("%s", unreached)
    return adapted


def _join_exclusions(given: str | Collection[str] | None, frozen: str | None) -> str | Collection[str] | None:
    """Returns what PEFT leaves alone: what the user's `exclude_modules` names, and what lies in frozen parts."""
    if not given or frozen is None:
        return given or frozen
    names = [given] if isinstance(given, str) else [rf"(.*\.)?{re.escape(name)}" for name in sorted(given)]
    return "|".join([*names, frozen])
