"""The captioner of the embedded world: a LLaVA of 0.99 million parameters, its processor, and the shipped checkpoint.

Every class is the one that a large LLaVA uses, so that what trains, scores and generates here does so there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmdpo.world.captions import BOS, EOS, IMAGE, MAX_WORDS, PAD, UNKNOWN, VOCABULARY
from mmdpo.world.scenes import IMAGE_SIZE

CHECKPOINT: Path = Path(__file__).parent / "assets" / "small"
"""Folder of the shipped supervised checkpoint, for `AutoModelForImageTextToText` and `AutoProcessor`."""

PATCH_SIZE = 12
HIDDEN_SIZE = 128
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
"""Tokens that one picture takes up in a prompt: 16."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if not loop.first %} {% endif %}"
    "{{ message['role'] }}"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
"""Renders `<s>user <image> describe assistant cup , plate .</s>`; up to `assistant` it is the generation prompt."""


def build_processor() -> Any:
    """Returns a `LlavaProcessor` for 48 × 48 pictures and the world's words; needs no torchvision.

    One image becomes 16 `<image>` tokens. The chat template writes `<s>` itself and the tokenizer adds no special
    token, so a rendered conversation is tokenised the same way whatever `add_special_tokens` says.
    """
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=_build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        # The tower's class token, which the strategy `default` drops again.
        num_additional_image_tokens=1,
    )


def build_model(seed: int) -> Any:
    """Returns a freshly initialised captioner in float32; the same seed gives the same weights.

    The features are those of the last layer of the tower, not of the last but one as in large LLaVA: of three
    layers none is spared. The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_build_config())
    ids = _token_ids()
    model.generation_config = GenerationConfig(**ids, max_new_tokens=MAX_WORDS, do_sample=False)
    return model.eval()


def _build_tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def _build_config() -> Any:
    ids = _token_ids()
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=HIDDEN_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        **ids,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY.index(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **ids,
    )


def _token_ids() -> dict[str, int]:
    return {name: VOCABULARY.index(word) for name, word in _NAMED_TOKENS.items()}


_NAMED_TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
