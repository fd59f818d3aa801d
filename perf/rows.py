"""Preference pairs of known lengths, and a processor whose every word is one token."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import transformers
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from perf.shapes import Lengths, Shape

SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<video>", "<vision_start>", "<vision_end>", "USER:", "ASSISTANT:")
"""Tokens 0 to 8: the ids that `Shape.config` names."""
WORDS = 96
"""Enough for the smallest vocabulary; the head multiplies with all of a vocabulary whatever the words are."""
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<s> USER: {% else %} {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% if message['role'] == 'user' %} ASSISTANT:{% else %} </s>{% endif %}{% endfor %}"
)


def make_rows(shape: Shape, lengths: Sequence[tuple[int, int, int]], seed: int) -> Dataset:
    """Returns pairs in TRL's vision format with so many prompt, chosen and rejected tokens; images are noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for prompt, chosen, rejected in lengths:
        pixels = generator.integers(0, 256, (shape.image_size, shape.image_size, 3), dtype=np.uint8)
        words = {name: _words(generator, count) for name, count in (("chosen", chosen), ("rejected", rejected))}
        question = [{"type": "image", "text": None}, {"type": "text", "text": _words(generator, prompt)}]
        row = {name: [{"role": "assistant", "content": [{"type": "text", "text": t}]}] for name, t in words.items()}
        rows.append({"images": [Image.fromarray(pixels)], "prompt": [{"role": "user", "content": question}], **row})
    return Dataset.from_list(rows)


def draw_lengths(lengths: Lengths, pairs: int, seed: int) -> list[tuple[int, int, int]]:
    """Returns prompt, chosen and rejected token counts per pair."""
    generator = np.random.default_rng(seed)
    ranges = (lengths.prompt, lengths.answer, lengths.answer)
    drawn = [tuple(int(generator.integers(low, high + 1)) for low, high in ranges) for _ in range(pairs)]
    return [(prompt, chosen, rejected) for prompt, chosen, rejected in drawn]


def _words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{word}" for word in generator.integers(0, WORDS, count))


def build_processor(shape: Shape) -> Any:
    """Returns the family's own processor of transformers, for images of the shape's size; it needs no torchvision."""
    tokenizer = _build_tokenizer()
    is_qwen = shape.family.startswith("qwen")
    placeholder = "<vision_start><image><vision_end>" if is_qwen else "<image>"
    template = TEMPLATE.replace("IMAGE", placeholder)
    side = {"height": shape.image_size, "width": shape.image_size}
    if is_qwen:
        pixels = dict(min_pixels=shape.image_size**2, max_pixels=shape.image_size**2)
        pixels["patch_size"] = shape.vision["patch_size"]
        # transformers insists on a processor for videos, and that one needs torchvision.
        images = _image_processor("qwen2_vl", "Qwen2VL", **pixels)
        with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
            kind = "Qwen2_5_VLProcessor" if shape.family == "qwen2_5_vl" else "Qwen3VLProcessor"
            return getattr(transformers, kind)(images, tokenizer, video_processor=None, chat_template=template)
    is_clip = shape.family == "llava"
    size = {"shortest_edge": shape.image_size} if is_clip else side
    crop = {"crop_size": side} if is_clip else {}
    folder, kind = ("clip", "CLIP") if is_clip else ("siglip", "Siglip")
    return transformers.LlavaProcessor(
        _image_processor(folder, kind, size=size, **crop),
        tokenizer,
        patch_size=shape.vision["patch_size"],
        vision_feature_select_strategy="default" if is_clip else "full",
        num_additional_image_tokens=1 if is_clip else 0,
        chat_template=template,
    )


def _build_tokenizer() -> Any:
    words = (*SPECIAL, *(f"w{word}" for word in range(WORDS)))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={
            "image_token": "<image>",
            "video_token": "<video>",
            "vision_bos_token": "<vision_start>",
            "vision_eos_token": "<vision_end>",
        },
    )


def _image_processor(folder: str, kind: str, **options: Any) -> Any:
    module = import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
    return getattr(module, f"{kind}ImageProcessorPil")(**options)
