"""Prompts or images that are read in both directions: PaliGemma and Gemma 3."""

from __future__ import annotations

import transformers

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


MODELS = models(paligemma, gemma3)
