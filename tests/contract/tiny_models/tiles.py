"""An image is cut into tiles of one size: Idefics3, SmolVLM, InternVL, Aya Vision and Ovis 2; Idefics2 before them."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import transformers
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tiny_models.parts import VISION, TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import CHATML, gpt2_tokenizer, llama_tokenizer, qwen_tokenizer, turn_template

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


def cohere2_vision() -> TinyModel:
    """Aya Vision's successor, with a gate in the projector."""
    tokenizer = qwen_tokenizer(
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    pixels = image_processor("got_ocr2.GotOcr2ImageProcessor", **TILES)  # its own needs torchvision, and cuts alike
    pixels.patch_size = 2  # whose square the processor takes for the tokens of a tile
    processor = transformers.Cohere2VisionProcessor(
        pixels, tokenizer, chat_template=turn_template(**CHATML, image="<|IMG_PATCH|>")
    )
    windows = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=text_config(transformers.Cohere2Config, tokenizer, **windows),
        image_token_id=token_id(tokenizer, "<|IMG_PATCH|>"),
        downsample_factor=2,
        alignment_intermediate_size=48,
        tie_word_embeddings=False,
    )
    model = transformers.Cohere2VisionForConditionalGeneration(config)
    return TinyModel(model, processor, "<|IMG_PATCH|>", "<|im_end|>\n")


def llama4() -> TinyModel:
    """Experts in every layer, attention in chunks in one of them, and a tower that pools nothing."""
    marks = ("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
    tokenizer = qwen_tokenizer("<|image|>", *marks)
    processor = transformers.Llama4Processor(
        _Llama4Images(**TILES),
        tokenizer,
        patch_size=4,
        pixel_shuffle_ratio=0.5,
        chat_template=turn_template(**CHATML, image="<|image|>"),
    )
    experts = dict(num_local_experts=4, num_experts_per_tok=1, intermediate_size_mlp=48, head_dim=8)
    layers = dict(layer_types=["chunked_attention", "full_attention"], attention_chunk_size=16, no_rope_layers=[1, 0])
    config = transformers.Llama4Config(
        vision_config=dict(
            **{**VISION, "intermediate_size": 128},
            patch_size=4,
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
        ),
        text_config=text_config(transformers.Llama4TextConfig, tokenizer, floor_scale=8, **experts, **layers),
        image_token_index=token_id(tokenizer, "<|patch|>"),
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.Llama4ForConditionalGeneration(config), processor, "<|image|>", "<|im_end|>\n")


class _Llama4Images(GotOcr2ImageProcessorPil):
    """Stands in for Llama 4's own, which needs torchvision: tiles in one row, and after them the whole picture."""

    def _preprocess(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._preprocess(*args, **kwargs)
        found["aspect_ratios"] = [(1, max(1, int(count) - 1)) for count in found.pop("num_patches")]
        return found


def idefics2() -> TinyModel:
    """A resampler makes four tokens of a picture of any shape; pixels are padded, and a mask says where."""
    tokenizer = llama_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    size = dict(size={"shortest_edge": 12, "longest_edge": 24})
    processor = transformers.Idefics2Processor(
        image_processor("idefics2.Idefics2ImageProcessor", **size),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE.replace("<|im_start|>", ""),
    )
    config = transformers.Idefics2Config(
        vision_config={**VISION, "image_size": 24, "patch_size": 4},
        perceiver_config=dict(
            hidden_size=32,
            resampler_n_latents=4,
            resampler_depth=1,
            resampler_n_heads=4,
            resampler_head_dim=8,
            num_key_value_heads=2,
        ),
        text_config=text_config(transformers.MistralConfig, tokenizer, sliding_window=24),
        image_token_id=token_id(tokenizer, "<image>"),
        tie_word_embeddings=False,
    )
    model = transformers.Idefics2ForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "<end_of_utterance>\n", projector=("connector",))


def ovis2() -> TinyModel:
    """Features are a mixture of the rows of a table, and so are the marks around and between tiles."""
    marks = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = qwen_tokenizer("<image>", "<IMG_ATOM>", *marks)
    processor = transformers.Ovis2Processor(
        image_processor("ovis2.Ovis2ImageProcessor", **TILES),
        tokenizer,
        image_seq_length=4,
        chat_template=turn_template(**CHATML, image="<image>\n"),
    )
    config = transformers.Ovis2Config(
        vision_config=dict(**VISION, patch_size=4, hidden_stride=2, vocab_size=24, num_visual_indicator_tokens=5),
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        image_token_id=token_id(tokenizer, "<IMG_ATOM>"),
        visual_indicator_token_ids=[token_id(tokenizer, mark) for mark in marks],
        vocab_size=len(tokenizer),
        hidden_size=32,
        tie_word_embeddings=False,
    )
    model = transformers.Ovis2ForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "<|im_end|>\n", projector=("visual_embeddings_table",))


MODELS = models(idefics2, idefics3, smolvlm, internvl, aya_vision, cohere2_vision, ovis2, llama4)
