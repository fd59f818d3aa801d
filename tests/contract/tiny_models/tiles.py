"""An image is cut into tiles of one size: Idefics3, SmolVLM, InternVL and Aya Vision."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import transformers

from tiny_models.parts import VISION, TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import CHATML, gpt2_tokenizer, qwen_tokenizer, turn_template

IDEFICS_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    "<|im_start|>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
IDEFICS_TEMPLATE = turn_template(
    first="<|im_start|>",
    image="<image>",
    names="{{ message['role'] | capitalize }}",
    colon=":",
    end="<end_of_utterance>\n",
)
TILES = dict(size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=3)


def idefics3() -> TinyModel:
    """Each tile has a text of its own in front; pixels are padded to [prompts, tiles, …]."""
    tokenizer = _idefics_tokenizer()
    pixels = image_processor("idefics3.Idefics3ImageProcessor", **_idefics_sizes())
    processor = transformers.Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    return _idefics("Idefics3", tokenizer, processor)


def smolvlm() -> TinyModel:
    """Idefics3 with a processor for videos too, which asks for a package that spells out numbers."""
    tokenizer = _idefics_tokenizer()
    pixels = image_processor("smolvlm.SmolVLMImageProcessor", **_idefics_sizes())
    with patch.object(import_module("transformers.models.smolvlm.processing_smolvlm"), "num2words", str):
        kwargs = dict(image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
        processor = without_video(transformers.SmolVLMProcessor, pixels, tokenizer, **kwargs)
    processor.video_processor = SimpleNamespace(num_frames=1, fps=1)  # its chat template looks at them
    return _idefics("SmolVLM", tokenizer, processor)


def _idefics_sizes() -> dict[str, Any]:
    return dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})


def _idefics_tokenizer() -> Any:
    tokenizer = gpt2_tokenizer(*IDEFICS_TOKENS)
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<end_of_utterance>"
    return tokenizer


def _idefics(family: str, tokenizer: Any, processor: Any) -> TinyModel:
    config = getattr(transformers, f"{family}Config")(
        vision_config=dict(**VISION, patch_size=4),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        image_token_id=token_id(tokenizer, "<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    return TinyModel(model, processor, "<image>", "<end_of_utterance>\n", projector=("connector",))


def internvl() -> TinyModel:
    """Tiles of all images lie in one dimension."""
    tokenizer = qwen_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = without_video(
        transformers.InternVLProcessor,
        image_processor("got_ocr2.GotOcr2ImageProcessor", **TILES),
        tokenizer,
        image_seq_length=4,
        chat_template=turn_template(**CHATML, image="<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config=dict(**VISION, patch_size=4),
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        image_token_id=token_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    model = transformers.InternVLForConditionalGeneration(config)
    return TinyModel(model, processor, "<IMG_CONTEXT>", "<|im_end|>\n")


def aya_vision() -> TinyModel:
    """The token in the text is another than the one that stands for a patch; every second layer has a short window."""
    marks = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    tokenizer = qwen_tokenizer("<image>", *marks)
    processor = transformers.AyaVisionProcessor(
        image_processor("got_ocr2.GotOcr2ImageProcessor", **TILES),
        tokenizer,
        patch_size=4,
        img_size=16,
        downsample_factor=2,
        chat_template=turn_template(**CHATML, image="<image>"),
    )
    windows = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=text_config(transformers.Cohere2Config, tokenizer, **windows),
        image_token_index=token_id(tokenizer, "<|IMG_PATCH|>"),
        downsample_factor=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.AyaVisionForConditionalGeneration(config), processor, "<image>", "<|im_end|>\n")


MODELS = models(idefics3, smolvlm, internvl, aya_vision)
