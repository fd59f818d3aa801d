"""Builds what a run trains: model, processor, adapter, and which parameters move."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from mmdpo.checkpoints.load import explained, load_configuration, load_whole_model
from mmdpo.data.collate import Collator
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.examples import Cell, image_versions
from mmdpo.families import VICUNA, Family, find_family
from mmdpo.scoring.forward import Scorer
from mmdpo.training.adapters import (
    Start,
    check_quantised,
    continue_adapter,
    count_bits,
    find_start,
    resolve_model,
    unwrap_adapter,
)
from mmdpo.training.config import MDPOConfig

__all__ = ["resolve_model", "unwrap_adapter"]

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
        if args.allow_pickle or "model.safetensors" not in str(error):
            raise
        raise OSError(
            f"{name} has no weights in safetensors. If it holds pickled ones (pytorch_model.bin), opening them can run "
            "code: take a checkpoint in safetensors, or set allow_pickle: true"
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


def build_collator(processor: Any, config: Any, args: MDPOConfig) -> Collator:
    """Returns the collator that makes batches of what the objective's cells need, for a model of this configuration."""
    objective = args.build_objective()
    versions = image_versions(objective.cells)
    prepare = Preparer(
        renderer=Renderer(processor, find_family(config)),
        cells=objective.cells,
        corruptions={name: made for name, made in args.build_corruptions().items() if name in versions},
        seed=args.seed,
        crop_space=args.crop_space,
        max_image_pixels=args.max_image_pixels,
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
    mask_suppressed_tokens(model)
    why = family.why_separate(model)
    if why is not None and args.attention == "shared":
        raise ValueError(f"attention: shared does not work for this model: {why}; use attention: auto or separate")
    if why is not None and args.attention == "auto":
        logger.warning("attention: separate rows for every cell, which is slower: %s", why)
    shares_prefix = why is None and args.attention != "separate"
    return Scorer(model, family, cells, shares_prefix, args.max_tokens_per_row)


def mask_suppressed_tokens(model: Any) -> None:
    """Takes the tokens that the model's generation config suppresses out of the softmax, by a bias of its head.

    They are rows of the head that no text has: `<image>` of a converted Bunny, which the original lacks. The bias is a
    buffer that is not saved, so that checkpoints keep their layout. Raises ValueError for a head that has one already.
    """
    base = unwrap_adapter(model)
    suppressed = getattr(getattr(base, "generation_config", None), "suppress_tokens", None)
    if not suppressed:
        return
    for name, layer in base.get_output_embeddings().named_modules():
        # Adapters wrap the head; what they add to it is part of the same sum.
        if not isinstance(layer, nn.Linear) or "lora_" in name or "bias" in layer._buffers:
            continue
        if layer._parameters["bias"] is not None:
            raise ValueError(f"generation_config suppresses the tokens {suppressed}, and the output head has a bias")
        weight = layer.weight
        # Finite, since 0 · ∞ is no number; half of the range, since a logit is added to it.
        bias = weight.new_zeros(weight.shape[0]).index_fill_(
            0, torch.tensor(suppressed, device=weight.device), torch.finfo(weight.dtype).min / 2
        )
        del layer._parameters["bias"]
        layer.register_buffer("bias", bias, persistent=False)


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
    parts = trained_parts(args)
    if peft_config.target_modules in (None, "all-linear", ["all-linear"], {"all-linear"}):
        peft_config.target_modules = family.lora_targets(model, parts)
    elif not getattr(peft_config, "exclude_modules", None):
        others = tuple(part for part in PARTS if part not in parts)
        peft_config.exclude_modules = family.lora_targets(model, others) if others else None
    adapted: nn.Module = get_peft_model(model, peft_config)
    return adapted


def disable_dropout(model: nn.Module) -> int:
    """Sets every dropout to zero, modules and the attention probabilities that functions read; returns how many.

    Dropout of 0.05 moves a sequence's log-probability by a large part of a nat, which rewards mistake for learning.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p:
            module.p = 0.0
            changed += 1
        for name, value in vars(module).items():
            if isinstance(value, float) and value and ("dropout" in name or name in ("layerdrop", "drop_path_rate")):
                setattr(module, name, 0.0)
                changed += 1
    return changed
