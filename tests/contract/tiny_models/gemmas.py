"""Prompts or images that are read in both directions: PaliGemma, Gemma 3 and Gemma 4."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import transformers
from transformers import ProcessorMixin

from tiny_models.parts import VISION, TinyModel, image_processor, models, text_config, token_id
from tiny_tokenizers import gemma_tokenizer, turn_template

SIZE = {"height": 16, "width": 16}


def paligemma() -> TinyModel:
    """The processor itself writes `<bos>` behind the images and a line break behind the prompt; no chat template."""
    tokenizer = gemma_tokenizer("<image>")
    pixels = image_processor("siglip.SiglipImageProcessor", size=SIZE)
    pixels.image_seq_length = 16
    # The processor adds 1,152 tokens for places and segments, so the configuration comes after it.
    processor = transformers.PaliGemmaProcessor(pixels, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, projection_dim=32),
        text_config=text_config(transformers.GemmaConfig, tokenizer, head_dim=8),
        image_token_index=token_id(tokenizer, "<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "<eos>", bos="<bos>")


def gemma3() -> TinyModel:
    """Every second layer sees a short window, image tokens see each other in both directions."""
    tokenizer = gemma_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    processor = transformers.Gemma3Processor(
        image_processor("gemma3.Gemma3ImageProcessor", size=SIZE),
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
    windows = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        text_config=text_config(transformers.Gemma3TextConfig, tokenizer, head_dim=8, **windows),
        mm_tokens_per_image=4,
        boi_token_index=token_id(tokenizer, "<start_of_image>"),
        eoi_token_index=token_id(tokenizer, "<end_of_image>"),
        image_token_index=token_id(tokenizer, "<image_soft_token>"),
        tie_word_embeddings=False,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    return TinyModel(model, processor, "<start_of_image>", "<end_of_turn>\n", bos="<bos>")


def gemma4() -> TinyModel:
    """Pictures in their own shape; a layer borrows keys and values, each layer reads an embedding of its own."""
    return _gemma4(num_hidden_layers=4, num_kv_shared_layers=2, hidden_size_per_layer_input=8)


def gemma4_moe() -> TinyModel:
    """With experts beside the dense layers, images that see each other in both directions, and softly capped logits."""
    experts = dict(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=16)
    both = dict(use_bidirectional_attention="vision", final_logit_softcapping=20.0, hidden_size_per_layer_input=0)
    return _gemma4(num_hidden_layers=2, **experts, **both)


def _gemma4(num_hidden_layers: int, **text: Any) -> TinyModel:
    tokenizer = gemma_tokenizer(
        "<|turn>",
        "<turn|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        image_token="<|image|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
        audio_token="<|audio|>",
    )
    pixels = image_processor("gemma4.Gemma4ImageProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        processor = transformers.Gemma4Processor(
            None,
            pixels,
            tokenizer,
            None,
            chat_template=turn_template(
                first="{{ bos_token }}",
                image="<|image|>",
                start="<|turn>",
                names="{{ message['role'] | replace('assistant', 'model') }}",
                colon="\n",
                end="<turn|>\n",
            ),
        )
    layers = ["sliding_attention", "full_attention"] * (num_hidden_layers // 2)
    sizes = dict(head_dim=8, global_head_dim=8, vocab_size_per_layer_input=len(tokenizer))
    config = transformers.Gemma4Config(
        vision_config=dict(
            **{name: size for name, size in VISION.items() if name != "image_size"},
            num_key_value_heads=4,
            head_dim=8,
            patch_size=4,
            pooling_kernel_size=2,
            position_embedding_size=128,
        ),
        text_config=text_config(
            transformers.Gemma4TextConfig,
            tokenizer,
            sliding_window=8,
            layer_types=layers,
            num_hidden_layers=num_hidden_layers,
            **{**sizes, **text},
        ),
        audio_config=None,
        **{f"{name}_token_id": token_id(tokenizer, mark) for name, mark in GEMMA4_MARKS.items()},
        tie_word_embeddings=False,
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    return TinyModel(model, processor, "<|image|>", "<turn|>\n", bos="<bos>", projector=("embed_vision",))


GEMMA4_MARKS = dict(boi="<|image>", eoi="<image|>", image="<|image|>", video="<|video|>", audio="<|audio|>")

MODELS = models(paligemma, gemma3, gemma4, gemma4_moe)
