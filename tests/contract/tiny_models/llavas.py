"""A vision tower, a projector and a language model: LLaVA, what followed it, and Mistral 3."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from typing import Any
from unittest.mock import patch

import transformers
from transformers import ProcessorMixin

from tiny_models.parts import VISION, TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import (
    BRACKETS,
    CHATML,
    VICUNA,
    gpt2_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    turn_template,
)

PINPOINTS = [[16, 16], [16, 32], [32, 16], [32, 32]]
"""Tilings of LLaVA-NeXT and LLaVA-OneVision: pictures of different shapes get different numbers of tokens."""


def llava_1_5() -> TinyModel:
    """CLIP and Llama; the class token is dropped, features come from the last layer but one."""
    tokenizer = llama_tokenizer("<image>")
    crop = {"height": 16, "width": 16}
    processor = transformers.LlavaProcessor(
        image_processor("clip.CLIPImageProcessor", size={"shortest_edge": 16}, crop_size=crop),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=8, projection_dim=32),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        image_token_index=token_id(tokenizer, "<image>"),
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaForConditionalGeneration(config), processor, "<image>", "</s>", bos="<s>")


def bunny() -> TinyModel:
    """SigLIP and Phi in LLaVA's class, as Bunny-v1.0-3B is loaded: all patches, no BOS, partial rotary positions."""
    tokenizer = gpt2_tokenizer("<image>")
    processor = transformers.LlavaProcessor(
        image_processor("siglip.SiglipImageProcessor", size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=VICUNA,
    )
    phi = dict(partial_rotary_factor=0.5, num_key_value_heads=4, resid_pdrop=0.1)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=8, vision_use_head=False),
        text_config=text_config(transformers.PhiConfig, tokenizer, **phi),
        image_token_index=token_id(tokenizer, "<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.LlavaForConditionalGeneration(config), processor, "<image>", "<|endoftext|>")


def llava_next() -> TinyModel:
    """CLIP and Mistral; an image is a thumbnail and tiles, a newline vector ends every row of features."""
    tokenizer = llama_tokenizer("<image>")
    sizes = dict(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS)
    processor = transformers.LlavaNextProcessor(
        image_processor("llava_next.LlavaNextImageProcessor", **sizes),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=turn_template(**BRACKETS, image="<image>\n"),
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=4, projection_dim=32),
        text_config=text_config(transformers.MistralConfig, tokenizer, sliding_window=24),
        image_token_index=token_id(tokenizer, "<image>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    model = transformers.LlavaNextForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "</s>", "<s>", ("multi_modal_projector", "image_newline"))


def llava_onevision() -> TinyModel:
    """SigLIP and Qwen2; one image is tiled, several in one prompt are not."""
    tokenizer = qwen_tokenizer("<image>", "<video>")
    sizes = dict(size={"height": 16, "width": 16}, image_grid_pinpoints=PINPOINTS)
    processor = without_video(
        transformers.LlavaOnevisionProcessor,
        image_processor("llava_onevision.LlavaOnevisionImageProcessor", **sizes),
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=turn_template(**CHATML, image="<image>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    projector = ("multi_modal_projector", "image_newline")
    return TinyModel(model, processor, "<image>", "<|im_end|>\n", projector=projector)


def granite4_vision() -> TinyModel:
    """LLaVA-NeXT's tiles; features of several layers of the tower are added to as many of the language model."""
    tokenizer = llama_tokenizer("<image>")
    sizes = dict(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=False)
    processor = transformers.Granite4VisionProcessor(
        image_processor("llava_next.LlavaNextImageProcessor", **sizes, image_grid_pinpoints=PINPOINTS),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        downsample_rate="2/4",
        chat_template=turn_template(**BRACKETS, image="<image>\n"),
    )
    vision = {**VISION, "hidden_size": 64, "patch_size": 4, "vision_use_head": False}
    scales = dict(embedding_multiplier=2.0, logits_scaling=2.0, residual_multiplier=0.5, attention_multiplier=0.5)
    config = transformers.Granite4VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**vision),
        text_config=text_config(transformers.Granite4VisionTextConfig, tokenizer, **scales),
        image_token_index=token_id(tokenizer, "<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        downsample_rate="2/4",
        deepstack_layer_map=[[1, 0]],
        spatial_target_layers=[1],
        qformer_config=dict(
            model_type="blip_2_qformer",
            hidden_size=64,
            encoder_hidden_size=64,
            num_attention_heads=1,
            num_hidden_layers=1,
            intermediate_size=48,
            cross_attention_frequency=1,
            use_qformer_text_input=False,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        tie_word_embeddings=False,
    )
    model = transformers.Granite4VisionForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "</s>", "<s>", ("projector", "image_newline"))


def llava_next_video() -> TinyModel:
    """LLaVA-NeXT's pictures in the class that reads videos too."""
    like = llava_next()
    tokenizer = like.processor.tokenizer
    tokenizer.add_tokens("<video>", special_tokens=True)
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        processor = transformers.LlavaNextVideoProcessor(
            None,
            like.processor.image_processor,
            tokenizer,
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=like.processor.chat_template,
        )
    config = transformers.LlavaNextVideoConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, patch_size=4, projection_dim=32),
        text_config=text_config(transformers.MistralConfig, tokenizer, sliding_window=24),
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    model = transformers.LlavaNextVideoForConditionalGeneration(config)
    return replace(like, model=model, processor=processor)


def lighton_ocr() -> TinyModel:
    """Pixtral's tower, patches merged two by two, and Qwen3; no marks between the rows of a picture."""
    marks = dict(image_token="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>")
    tokenizer = qwen_tokenizer(**marks)
    processor = transformers.LightOnOcrProcessor(
        image_processor("pixtral.PixtralImageProcessor", size={"longest_edge": 24}, patch_size=8),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=turn_template(**CHATML, image="<|image_pad|>"),
    )
    config = transformers.LightOnOcrConfig(
        vision_config=transformers.PixtralVisionConfig(**VISION | {"image_size": 24}, patch_size=4, head_dim=8),
        text_config=text_config(transformers.Qwen3Config, tokenizer, head_dim=8),
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    model = transformers.LightOnOcrForConditionalGeneration(config)
    return TinyModel(model, processor, "<|image_pad|>", "<|im_end|>\n", projector=("vision_projection",))


def mistral3() -> TinyModel:
    """Pixtral's tower reads images in their own shape; a mark ends every row of an image's tokens."""
    tokenizer = llama_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    processor = _pixtral_processor()(
        image_processor("pixtral.PixtralImageProcessor", size={"longest_edge": 24}, patch_size=4),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=turn_template(**BRACKETS, image="[IMG]"),
    )
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**VISION | {"image_size": 24}, patch_size=4, head_dim=8),
        text_config=text_config(transformers.MistralConfig, tokenizer, head_dim=8, sliding_window=None),
        image_token_index=token_id(tokenizer, "[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.Mistral3ForConditionalGeneration(config), processor, "[IMG]", "</s>", bos="<s>")


def _pixtral_processor() -> Any:
    """Returns `PixtralProcessor`.

    Its module takes one function from a file that needs torchvision; the file that needs none has the same function.
    """
    folder = "transformers.models.pixtral"
    with patch.dict(sys.modules):
        if not transformers.utils.is_torchvision_available():
            sys.modules[f"{folder}.image_processing_pixtral"] = import_module(f"{folder}.image_processing_pil_pixtral")
        return import_module(f"{folder}.processing_pixtral").PixtralProcessor


def vipllava() -> TinyModel:
    """CLIP and Llama, with features of several layers of the tower side by side."""
    llava = llava_1_5()
    config = transformers.VipLlavaConfig(
        vision_config=llava.model.config.vision_config,
        text_config=llava.model.config.text_config,
        image_token_index=llava.model.config.image_token_id,
        vision_feature_layer=[-2, 1],
        tie_word_embeddings=False,
    )
    return replace(llava, model=transformers.VipLlavaForConditionalGeneration(config))


def deepseek_vl() -> TinyModel:
    """SigLIP and Llama; pictures are padded to a square, every patch is a token."""
    tokenizer = llama_tokenizer(image_token="<image_placeholder>")
    processor = transformers.DeepseekVLProcessor(
        image_processor("deepseek_vl.DeepseekVLImageProcessor", size={"height": 16, "width": 16}, min_size=4),
        tokenizer,
        chat_template=turn_template(**BRACKETS, image="<image_placeholder>\n"),
        num_image_tokens=16,
    )
    config = transformers.DeepseekVLConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        image_token_id=token_id(tokenizer, "<image_placeholder>"),
        tie_word_embeddings=False,
    )
    model = transformers.DeepseekVLForConditionalGeneration(config)
    return TinyModel(model, processor, "<image_placeholder>", "</s>", bos="<s>", projector=("aligner",))


def janus() -> TinyModel:
    """DeepSeek-VL's successor, which can draw as well; what draws is not trained here."""
    tokenizer = llama_tokenizer(
        image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>"
    )
    processor = transformers.JanusProcessor(
        image_processor("janus.JanusImageProcessor", size={"height": 16, "width": 16}, min_size=4),
        tokenizer,
        chat_template=turn_template(**BRACKETS, image="<image_placeholder>\n"),
        num_image_tokens=16,
    )
    config = transformers.JanusConfig(
        vision_config=dict(
            **{name: size for name, size in VISION.items() if name != "intermediate_size"},
            patch_size=4,
            mlp_ratio=1.5,
            projection_dim=32,
            num_image_tokens=16,
        ),
        vq_config=dict(
            embed_dim=4,
            num_embeddings=16,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        image_token_id=token_id(tokenizer, "<image_placeholder>"),
        tie_word_embeddings=False,
    )
    model = transformers.JanusForConditionalGeneration(config)
    return TinyModel(model, processor, "<image_placeholder>", "</s>", bos="<s>", projector=("aligner",))


MODELS = models(
    llava_1_5,
    bunny,
    vipllava,
    deepseek_vl,
    janus,
    llava_next,
    llava_next_video,
    llava_onevision,
    granite4_vision,
    mistral3,
    lighton_ocr,
)
