"""Opens a start: configuration, processor, and the model with every weight accounted for.

Where weights are missing or do not fit, transformers would warn and make them up.
"""

import copy
import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils.hub import cached_file, has_file

from mmdpo.models.families import PARTS, VICUNA, find_family
from mmdpo.models.seams import LOAD_REPORT
from mmdpo.models.start import PROCESSOR_CONFIGS, LoadOptions, Start, explain_absence, resolve_start
from mmdpo.models.trained import attach_adapter, freeze_others, unwrap_adapter
from mmdpo.models.weights import CheckpointError, check_names, read_weights

BUNNY_LAYOUT = "bunny-phi"
"""The `model_type` of Bunny checkpoints as they were published, which have to be converted."""


def load_model(start: Start, *, parts: Collection[str] = PARTS) -> Any:
    """Returns the vision-language model of a start: the one that was given, or what is loaded.

    With an adapter it is a PeftModel, of which the adapter on the named `parts` is trained. Weights are loaded in
    float32 unless the options name a dtype, as TRL does, and from safetensors alone unless `allow_pickle` is set.
    Raises ValueError for no vision-language model, and weights or an adapter that do not fit; OSError for missing ones.
    """
    if start.given is not None:
        return start.given
    options = start.options
    arguments: dict[str, Any] = {"dtype": "float32"} | dict(options.arguments)
    arguments |= {"trust_remote_code": options.trust_remote_code, "revision": start.revision or "main"}
    if not options.allow_pickle:
        arguments["use_safetensors"] = True
    try:
        model = load_whole_model(start.base, **arguments)
    except OSError as error:
        if options.allow_pickle or not _has_pickles_alone(start):
            raise
        raise OSError(
            f"{start.name} has no weights in safetensors, and opening its pickles (pytorch_model.bin) can run code: "
            "take a checkpoint in safetensors, or set allow_pickle: true"
        ) from error
    if start.adapter is None:
        return model
    tensors = read_weights(start.adapter, allow_pickle=options.allow_pickle, of_adapter=True)
    adapted = attach_adapter(model, start.adapter, tensors, base=start.base, is_trained=True)
    freeze_others(adapted, parts)
    return adapted


def load_whole_model(name: str, **options: Any) -> PreTrainedModel:
    """Returns the vision-language model of a folder or hub name; `options` are those of `from_pretrained`.

    Raises CheckpointError for weights that are missing, unknown or of another shape than config.json says, and for a
    file that is cut short, or an index that is none, naming it; what `from_pretrained` says of anything else stays.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return LOAD_REPORT not in record.getMessage()  # about weights that were made up: they are an error here

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_wanted)
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            name, output_loading_info=True, **{**options, "ignore_mismatched_sizes": True}
        )
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(_describe_damage(name, options, error)) from error
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {name} cannot be brought into the model that its config.json describes ({error}). Where "
            "they do not have its shapes or names, fetch the checkpoint again"
        ) from error
    finally:
        logger.removeFilter(is_wanted)
    _account(model, found, name)
    return model


def build_empty_model(start: Start) -> PreTrainedModel:
    """Returns the model of a start, in its precision, whose weights are shapes without memory."""
    arguments: dict[str, Any] = {"dtype": start.options.arguments.get("dtype") or "float32"}
    if arguments["dtype"] == "auto":
        arguments["dtype"] = start.config.dtype or "float32"
    if attention := start.options.arguments.get("attn_implementation"):
        arguments["attn_implementation"] = attention
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            start.config, trust_remote_code=start.options.trust_remote_code, **arguments
        )
    return model


def load_config(start: Start) -> Any:
    """Returns the configuration of a start's model.

    Raises ValueError for no vision-language model, CheckpointError for one to be converted, OSError for none found.
    """
    trusts = start.options.trust_remote_code
    with _explained("model", start.name):
        # Read before the class is looked for: where a checkpoint brings its own code, transformers asks to run it.
        if PreTrainedConfig.get_config_dict(start.base, **start.where)[0].get("model_type") == BUNNY_LAYOUT:
            raise CheckpointError(
                f"{start.base} is a Bunny checkpoint in its own layout, which runs on code of its own: "
                f"`mmdpo convert bunny {start.base} FOLDER` writes one that needs none; train on that FOLDER"
            )
        config = AutoConfig.from_pretrained(start.base, trust_remote_code=trusts, **start.where)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trusts:
        raise ValueError(
            f"{start.name} is a {config.model_type} model, which transformers does not load as an image-text-to-text "
            "model; mmdpo trains vision-language models"
        )
    return config


def load_generation_config(start: Start) -> GenerationConfig | None:
    """Returns the generation config of a start's model, None where it has none."""
    if start.given is not None:
        return getattr(start.given, "generation_config", None)
    try:
        return GenerationConfig.from_pretrained(start.base, **start.where)
    except OSError:
        return None


def plain_decoding(model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int = 1) -> GenerationConfig:
    """Returns how a model answers greedily, or by beams.

    Of the model's own generation config only what belongs to its tokens holds (where an answer ends, which tokens are
    suppressed): a checkpoint's taste in sampling or repetition would make answers of two models incomparable.
    """
    own = model.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(ends) if isinstance(ends, list | tuple) else [ends],
        pad_token_id=tokenizer.pad_token_id,
    )


def load_processor(start: Start) -> ProcessorMixin:
    """Returns the processor of a start, with the chat template and the padding that its options ask for.

    Raises ValueError where it reads no images or its template is no file, OSError for one that cannot be found.
    """
    options, trusts = start.options, start.options.trust_remote_code
    if start.given is not None:
        if not start.name:
            raise ValueError("the model does not say where it was loaded from: give its processor as processing_class")
        start = resolve_start(start.name, options)
    with _explained("processor of", start.name):
        try:
            processor = AutoProcessor.from_pretrained(start.processor, trust_remote_code=trusts, **start.where)
        except OSError as error:
            folder = Path(start.processor)
            if not folder.is_dir() or any((folder / name).is_file() for name in PROCESSOR_CONFIGS):
                raise
            raise CheckpointError(
                f"{folder} holds a model and no processor ({' or '.join(PROCESSOR_CONFIGS)}): copy these files of the "
                "model that it was trained from into it, or save that model's processor there (save_pretrained)"
            ) from error
    if options.chat_template is not None:
        path = VICUNA if options.chat_template == "vicuna" else Path(options.chat_template)
        if not path.is_file():
            raise ValueError(f"chat_template: there is no file {path}; give a Jinja file, or vicuna")
        processor.chat_template = path.read_text(encoding="utf-8")
    processor = _complete_processor(processor, options)
    if options.pad_to_square:
        find_family(start.config).pad_to_square(processor)
    return processor


def adapt_processor(processor: Any, options: LoadOptions) -> Any:
    """Returns the processor that a caller brings, or a copy where options change it; the caller's renders as before.

    Raises ValueError for one that reads no images, and for options that belong to a processor which mmdpo loads.
    """
    if options.chat_template is not None or options.pad_to_square:
        raise ValueError(
            "chat_template and pad_to_square change the processor that mmdpo loads, and processing_class is given: "
            "set them on that processor and leave the options out"
        )
    return _complete_processor(processor, options)


def _complete_processor(processor: Any, options: LoadOptions) -> Any:
    """Returns the processor, or a copy with variables of its template, and padding by the end-of-sequence token."""
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ValueError(
            f"processing_class is a {type(processor).__name__}; a vision-language model's processor, with an image "
            "processor and a tokenizer, is needed (AutoProcessor.from_pretrained)"
        )
    if options.chat_template_kwargs:
        processor = copy.copy(processor)
        set_template_variables(processor, options.chat_template_kwargs)
    if processor.tokenizer.pad_token is None:
        processor = copy.deepcopy(processor)
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


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


def check_model(model: nn.Module) -> None:
    """Raises ValueError, with the reason, unless the model reads images in a way that can be trained."""
    base = unwrap_adapter(model)
    find_family(base.config).check(base)


@contextmanager
def _explained(what: str, name: str) -> Iterator[None]:
    """Lets the errors of transformers say what was being loaded, and of which checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        told = str(error) if Path(name).exists() else explain_absence(name)
        raise OSError(f"cannot load the {what} {name!r}: {told}") from error
    except ValueError as error:
        raise CheckpointError(f"cannot load the {what} {name!r}: {error}") from error


def _account(model: PreTrainedModel, found: dict[str, Any], name: str) -> None:
    """Raises CheckpointError, which lists them, for weights that do not fit."""
    # Buffers that older checkpoints hold, and models now make themselves or do without.
    strangers = {key for key in found["unexpected_keys"] if not re.search(r"(^|\.)(position_ids|inv_freq)$", key)}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(found["missing_keys"], ())
    held: dict[str, tuple[int, ...]] = dict.fromkeys(strangers, ())
    for key, on_disk, in_model in found["mismatched_keys"]:
        expected[key], held[key] = tuple(in_model), tuple(on_disk)
    kind, count = type(model).__name__, len(list(model.named_parameters()))
    where = f"the weights of {name} are not those of the {kind} that its config.json describes (nothing was made up)"
    if len(found["missing_keys"]) > count / 2:
        where = (
            f"config.json of {name} describes a {kind}, and its weights are those of another architecture: put the "
            "config.json and the weights of one model together"
        )
    check_names(expected, held, where)


def _describe_damage(name: str, options: dict[str, Any], error: Exception) -> str:
    """Says which file is at fault; the errors of safetensors and of reading an index name none."""
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    config = cached_file(name, "config.json", local_files_only=True, **where)
    try:
        read_weights(Path(config or name).parent)
    except CheckpointError as damage:
        return str(damage)
    return f"a weight file of {name} is cut short or damaged ({error}): fetch it again"


def _has_pickles_alone(start: Start) -> bool:
    """Says whether the base, a folder or a repository of the hub, has its weights as pickles and not in safetensors."""

    def has(kind: str) -> bool:
        return any(has_file(start.base, file, **start.where) for file in (kind, f"{kind}.index.json"))

    return has("pytorch_model.bin") and not has("model.safetensors")
