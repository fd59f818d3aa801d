"""Real vision-language classes of transformers, made tiny and random here: model, processor and tokenizer, no download.

`MODELS` maps a name to a function that builds one. Sizes are the least that keep what makes a family special: several
patches per image, tiles, windows shorter than a row, features of more than one layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
import transformers
from tiny_tokenizers import (
    BRACKETS,
    CHATML,
    VICUNA,
    gemma_tokenizer,
    gpt2_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    turn_template,
)
from transformers import ProcessorMixin

MODELS: dict[str, Callable[[], TinyModel]] = {}


@dataclass(frozen=True)
class TinyModel:
    """One model with what the contract has to know of its family, written down independently of `mmdpo.families`."""

    model: Any
    processor: Any
    placeholder: str
    """What stands for one image in text that the processor is given."""
    end_of_turn: str
    """What ends an answer."""
    bos: str | None = None
    """What stands exactly once in every prompt, whether template, tokenizer or processor writes it."""
    reads_text_alone: bool = True
    reads_several_images: bool = True


def tiny(build: Callable[[], TinyModel]) -> Callable[[], TinyModel]:
    """Registers a builder under its name; each model is built once."""

    @cache
    def seeded() -> TinyModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = build()
            _spread(made.model)
        made.model.eval()
        return made

    MODELS[build.__name__] = seeded
    return seeded


# -- sizes ------------------------------------------------------------------------------------------------------------

TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    attention_dropout=0.0,
)
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16)


def _text(config: type, tokenizer: Any, **options: Any) -> Any:
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    return config(**{**TEXT, **ids, "vocab_size": len(tokenizer), "tie_word_embeddings": False, **options})


def _spread(model: Any) -> None:
    """Makes weights large enough that a wrong position or mask shows, and norms and biases other than one and zero."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        else:
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))


def _pil(name: str) -> Any:
    """Returns an image processor class of transformers that needs no torchvision: `clip.CLIPImageProcessor`."""
    folder, kind = name.split(".")
    return getattr(import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), f"{kind}Pil")


def _without_video(processor_class: type, *args: Any, **kwargs: Any) -> Any:
    """Builds a processor whose video processor is None, where transformers insists on one that needs torchvision."""
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        return processor_class(*args, video_processor=None, **kwargs)


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


# -- models -----------------------------------------------------------------------------------------------------------


@tiny
def llava_1_5() -> TinyModel:
    """CLIP and Llama; the class token is dropped, features come from the last layer but one."""
    tokenizer = llama_tokenizer("<image>")
    image_processor = _pil("clip.CLIPImageProcessor")(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_pad=True
    )
    processor = transformers.LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=8, projection_dim=32),
        text_config=_text(transformers.LlamaConfig, tokenizer),
        image_token_index=_id(tokenizer, "<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaForConditionalGeneration(config), processor, "<image>", "</s>", "<s>")


@tiny
def bunny() -> TinyModel:
    """SigLIP and Phi in LLaVA's class, as Bunny-v1.0-3B is loaded: all patches, no BOS, partial rotary positions."""
    tokenizer = gpt2_tokenizer("<image>")
    image_processor = _pil("siglip.SiglipImageProcessor")(size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=VICUNA,
    )
    text = _text(transformers.PhiConfig, tokenizer, partial_rotary_factor=0.5, num_key_value_heads=4, resid_pdrop=0.1)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=8, vision_use_head=False),
        text_config=text,
        image_token_index=_id(tokenizer, "<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaForConditionalGeneration(config), processor, "<image>", "<|endoftext|>")


PINPOINTS = [[16, 16], [16, 32], [32, 16], [32, 32]]
"""Tilings of LLaVA-NeXT and LLaVA-OneVision: pictures of different shapes get different numbers of tokens."""


@tiny
def llava_next() -> TinyModel:
    """CLIP and Mistral; an image is a thumbnail and tiles, a newline vector ends every row of features."""
    tokenizer = llama_tokenizer("<image>")
    image_processor = _pil("llava_next.LlavaNextImageProcessor")(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS
    )
    processor = transformers.LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=turn_template(**BRACKETS, image="<image>\n"),
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=4, projection_dim=32),
        text_config=_text(transformers.MistralConfig, tokenizer, sliding_window=24),
        image_token_index=_id(tokenizer, "<image>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaNextForConditionalGeneration(config), processor, "<image>", "</s>", "<s>")


@tiny
def llava_onevision() -> TinyModel:
    """SigLIP and Qwen2; one image is tiled, several in one prompt are not."""
    tokenizer = qwen_tokenizer("<image>", "<video>")
    image_processor = _pil("llava_onevision.LlavaOnevisionImageProcessor")(
        size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS
    )
    processor = _without_video(
        transformers.LlavaOnevisionProcessor,
        image_processor,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=turn_template(**CHATML, image="<image>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=_text(transformers.Qwen2Config, tokenizer),
        image_token_index=_id(tokenizer, "<image>"),
        video_token_index=_id(tokenizer, "<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaOnevisionForConditionalGeneration(config), processor, "<image>", "<|im_end|>\n")


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_vl(family: str, vision: dict[str, Any], **text: Any) -> TinyModel:
    tokenizer = qwen_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    image_processor = _pil("qwen2_vl.Qwen2VLImageProcessor")(
        size={"shortest_edge": 8 * 8, "longest_edge": 24 * 24}, patch_size=4, temporal_patch_size=2, merge_size=2
    )
    processor = _without_video(
        getattr(transformers, f"{family}Processor"),
        image_processor,
        tokenizer,
        chat_template=turn_template(**CHATML, image=QWEN_IMAGE),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(
        vision_config=dict(patch_size=4, spatial_merge_size=2, temporal_patch_size=2, in_channels=3, **vision),
        text_config=_text(config_class.sub_configs["text_config"], tokenizer, rope_parameters=rope, **text).to_dict(),
        image_token_id=_id(tokenizer, "<|image_pad|>"),
        video_token_id=_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    return TinyModel(model, processor, QWEN_IMAGE, "<|im_end|>\n")


@tiny
def qwen2_vl() -> TinyModel:
    """As many tokens as an image has patches, and three-dimensional positions."""
    return _qwen_vl("Qwen2VL", dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2))


@tiny
def qwen2_5_vl() -> TinyModel:
    """As Qwen2-VL, with attention in windows in all but the named layers of the vision tower."""
    vision = dict(depth=2, hidden_size=32, out_hidden_size=32, intermediate_size=48, num_heads=4)
    return _qwen_vl("Qwen2_5_VL", dict(**vision, window_size=16, fullatt_block_indexes=[1]))


@tiny
def qwen3_vl() -> TinyModel:
    """As Qwen2-VL, and the features of an early vision layer are added to the first layers of the language model."""
    vision = dict(depth=2, hidden_size=32, out_hidden_size=32, intermediate_size=48, num_heads=4)
    return _qwen_vl("Qwen3VL", dict(**vision, num_position_embeddings=16, deepstack_visual_indexes=[0]), head_dim=8)


IDEFICS_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    "<|im_start|>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)


@tiny
def idefics3() -> TinyModel:
    """An image is cut into tiles with a text of their own between them; pixels are padded to [prompts, tiles, …]."""
    tokenizer = gpt2_tokenizer(*IDEFICS_TOKENS)
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<end_of_utterance>"
    image_processor = _pil("idefics3.Idefics3ImageProcessor")(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.Idefics3Processor(
        image_processor,
        tokenizer,
        image_seq_len=4,
        chat_template=turn_template(
            first="<|im_start|>",
            image="<image>",
            names="{{ message['role'] | capitalize }}",
            colon=":",
            end="<end_of_utterance>\n",
        ),
    )
    config = transformers.Idefics3Config(
        vision_config=dict(**VISION, patch_size=4),
        text_config=_text(transformers.LlamaConfig, tokenizer),
        image_token_id=_id(tokenizer, "<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = transformers.Idefics3ForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "<end_of_utterance>\n")


@tiny
def internvl() -> TinyModel:
    """Tiles of one size, all in one dimension; the processor's own mark stands for an image."""
    tokenizer = qwen_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    image_processor = _pil("got_ocr2.GotOcr2ImageProcessor")(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    processor = _without_video(
        transformers.InternVLProcessor,
        image_processor,
        tokenizer,
        image_seq_length=4,
        chat_template=turn_template(**CHATML, image="<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config=dict(**VISION, patch_size=4),
        text_config=_text(transformers.Qwen2Config, tokenizer),
        image_token_id=_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    model = transformers.InternVLForConditionalGeneration(config)
    return TinyModel(model, processor, "<IMG_CONTEXT>", "<|im_end|>\n")


@tiny
def paligemma() -> TinyModel:
    """The processor itself writes `<bos>` behind the images and a line break behind the prompt; no chat template."""
    tokenizer = gemma_tokenizer("<image>")
    image_processor = _pil("siglip.SiglipImageProcessor")(size={"height": 16, "width": 16})
    image_processor.image_seq_length = 16
    # The processor adds 1,152 tokens for places and segments.
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, projection_dim=32),
        text_config=_text(transformers.GemmaConfig, tokenizer, head_dim=8),
        image_token_index=_id(tokenizer, "<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.PaliGemmaForConditionalGeneration(config), processor, "<image>", "<eos>", "<bos>")


@tiny
def gemma3() -> TinyModel:
    """Every second layer sees a short window, image tokens see each other in both directions."""
    tokenizer = gemma_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    image_processor = _pil("gemma3.Gemma3ImageProcessor")(size={"height": 16, "width": 16})
    processor = transformers.Gemma3Processor(
        image_processor,
        tokenizer,
        image_seq_length=4,
        chat_template=turn_template(
            first="{{ bos_token }}",
            image="<start_of_image>",
            start="<start_of_turn>",
            names="{{ message['role'] | replace('assistant', 'model') }}",
            colon="\n",
            end="<end_of_turn>\n",
        ),
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=_text(
            transformers.Gemma3TextConfig,
            tokenizer,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        mm_tokens_per_image=4,
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
        image_token_index=_id(tokenizer, "<image_soft_token>"),
        tie_word_embeddings=False,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    return TinyModel(model, processor, "<start_of_image>", "<end_of_turn>\n", "<bos>")


@tiny
def mistral3() -> TinyModel:
    """Pixtral's tower reads images in their own shape; a mark ends every row of an image's tokens."""
    tokenizer = llama_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    image_processor = _pil("pixtral.PixtralImageProcessor")(size={"longest_edge": 24}, patch_size=4)
    processor = _pixtral_processor()(
        image_processor,
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=turn_template(**BRACKETS, image="[IMG]"),
    )
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**VISION | {"image_size": 24}, patch_size=4, head_dim=8),
        text_config=_text(transformers.MistralConfig, tokenizer, head_dim=8, sliding_window=None),
        image_token_index=_id(tokenizer, "[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.Mistral3ForConditionalGeneration(config), processor, "[IMG]", "</s>", "<s>")


def _pixtral_processor() -> Any:
    """Returns `PixtralProcessor`; its module takes one function from a file that needs torchvision, and the file that
    does not need it has the same function.
    """
    folder = "transformers.models.pixtral"
    with patch.dict(sys.modules):
        if not transformers.utils.is_torchvision_available():
            sys.modules[f"{folder}.image_processing_pixtral"] = import_module(f"{folder}.image_processing_pil_pixtral")
        return import_module(f"{folder}.processing_pixtral").PixtralProcessor
