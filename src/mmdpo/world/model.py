"""The captioners of the embedded worlds: a LLaVA of the world's size, its processor, and how it is asked.

Every class is the one that a large LLaVA uses, so that what trains, scores and generates here does so there.
"""

from collections.abc import Sequence
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

from mmdpo.world import BOS, EOS, IMAGE, PAD, PROMPT, SMALL, UNKNOWN, World
from mmdpo.world.scenes import Scene, render

CHECKPOINT: Path = SMALL.checkpoint
"""Folder of the supervised checkpoint that ships, the small world's."""
CHAT_TEMPLATE = (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8")
"""Renders `<s>user <image> describe assistant cup , plate .</s>`; up to `assistant` it is the generation prompt."""


def build_processor(world: World = SMALL) -> Any:
    """Returns a `LlavaProcessor` for the world's pictures and words; needs no torchvision.

    The chat template writes `<s>` itself and the tokenizer adds no special token, so that a rendered conversation is
    tokenised the same way whatever `add_special_tokens` says.
    """
    size, half = world.image_size, [0.5, 0.5, 0.5]
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=half, image_std=half
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=_build_tokenizer(world),
        patch_size=world.network.patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        # The tower's class token, which the strategy `default` drops again.
        num_additional_image_tokens=1,
    )


def build_model(seed: int, world: World = SMALL) -> Any:
    """Returns a freshly initialised captioner in float32; the same seed gives the same weights.

    Features are those of the tower's last layer, not of the last but one as in large LLaVA, since it has so few.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_build_config(world))
    ids = _token_ids(world)
    model.generation_config = GenerationConfig(**ids, max_new_tokens=world.max_words, do_sample=False)
    return model.eval()


def caption_prompt() -> list[dict[str, Any]]:
    """Returns the one prompt of this world as chat turns: an image, then the instruction."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]


def caption_scenes(
    model: Any, processor: Any, scenes: Sequence[Scene], batch_size: int, *, do_sample: bool = False
) -> list[str]:
    """Captions every scene, greedily or by samples at temperature 1 from torch's global random state."""
    captions: list[str] = []
    prompt = processor.apply_chat_template(caption_prompt(), add_generation_prompt=True)
    was_training = model.training
    model.eval()
    for start in range(0, len(scenes), batch_size):
        images = [render(scene) for scene in scenes[start : start + batch_size]]
        inputs = processor(images=images, text=[prompt] * len(images), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=do_sample)
        captions += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train(was_training)
    return captions


def _build_tokenizer(world: World) -> Any:
    ids = {word: index for index, word in enumerate(world.vocabulary)}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
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


def _build_config(world: World) -> Any:
    ids, network = _token_ids(world), world.network
    width = network.hidden_size
    shape = dict(hidden_size=width, intermediate_size=2 * width, num_attention_heads=network.heads)
    vision = CLIPVisionConfig(
        **shape,
        num_hidden_layers=network.vision_layers,
        image_size=world.image_size,
        patch_size=network.patch_size,
        projection_dim=width,
    )
    text = LlamaConfig(
        **shape,
        vocab_size=len(world.vocabulary),
        num_hidden_layers=network.text_layers,
        num_key_value_heads=network.heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        **ids,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=world.vocabulary.index(IMAGE),
        image_seq_length=world.image_tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **ids,
    )


def _token_ids(world: World) -> dict[str, int]:
    named = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return {name: world.vocabulary.index(word) for name, word in named.items()}
