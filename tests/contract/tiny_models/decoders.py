"""LLaVA around any text decoder of transformers: its class takes whatever `model_type` the configuration names."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import transformers

from tiny_models.llavas import llava_1_5
from tiny_models.needing import DEEPSEEK_EXPERTS, LOW_RANKS
from tiny_models.parts import TinyModel, models, text_config
from tiny_models.qwens import GLM_EXPERTS, QWEN_EXPERTS, ROPE

WINDOW = 8
"""Tokens; far fewer than those of an image and a question."""
WINDOWS = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
OPTIONS: dict[str, dict[str, Any]] = {
    "mistral": dict(sliding_window=WINDOW),
    "phi": dict(num_key_value_heads=4, partial_rotary_factor=0.5),
    "qwen2": dict(use_sliding_window=True, **WINDOWS),
    "qwen3": dict(use_sliding_window=True, head_dim=8, **WINDOWS),
    "gemma": dict(head_dim=8),
    "gemma3_text": dict(head_dim=8, **WINDOWS),
    "cohere2": WINDOWS,
    "qwen2_vl_text": dict(rope_parameters=ROPE),
    "qwen2_5_vl_text": dict(rope_parameters=ROPE),
    "qwen3_vl_text": dict(rope_parameters=ROPE, head_dim=8),
    "qwen3_vl_moe_text": dict(rope_parameters=ROPE, head_dim=8, **QWEN_EXPERTS),
    "glm4v_text": dict(rope_parameters={**ROPE, "partial_rotary_factor": 1.0}),
    "glm4v_moe_text": dict(rope_parameters=ROPE, **GLM_EXPERTS),
    "exaone4": WINDOWS,
    "hyperclovax": dict(embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.5),
    "deepseek_v3": dict(**LOW_RANKS, **DEEPSEEK_EXPERTS),
    "gemma4_text": dict(head_dim=8, global_head_dim=8, hidden_size_per_layer_input=0, **WINDOWS),
}
"""What a decoder needs beside the sizes that all of them have; windows where it can have them."""


def llava_with(model_type: str) -> TinyModel:
    """Returns LLaVA-1.5 with another text decoder, from a seed."""

    def build() -> TinyModel:
        llava = llava_1_5()
        decoder = type(transformers.AutoConfig.for_model(model_type))
        config = transformers.LlavaConfig(
            vision_config=llava.model.config.vision_config,
            text_config=text_config(decoder, llava.processor.tokenizer, **copy.deepcopy(OPTIONS.get(model_type, {}))),
            image_token_index=llava.model.config.image_token_id,
            vision_feature_layer=-2,
            tie_word_embeddings=False,
        )
        return replace(llava, model=transformers.LlavaForConditionalGeneration(config))

    return models(build)["build"]()
