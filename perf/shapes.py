"""Model shapes and answer lengths that are measured. Weights are random: time and memory do not depend on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import AutoConfig

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Lengths:
    """How many text tokens a pair has; a length is drawn evenly between least and most, per pair and answer."""

    prompt: tuple[int, int] = (36, 44)
    answer: tuple[int, int] = (60, 250)


@dataclass(frozen=True)
class Shape:
    """A model's sizes, its adapter and its processor."""

    name: str
    family: str
    """`llava` (CLIP and Llama), `bunny` (SigLIP and Phi), `qwen2_5_vl` or `qwen3_vl_moe`."""
    text: dict[str, Any]
    vision: dict[str, Any]
    lora_rank: int
    image_size: int
    lengths: Lengths = Lengths()

    def config(self) -> Any:
        """Returns the configuration of transformers; image token ids are those of `rows.build_processor`."""
        config: dict[str, Any] = {"tie_word_embeddings": False, **FAMILIES[self.family]}
        text = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.0, **self.text}
        config["text_config"] = {**config["text_config"], **text}
        config["vision_config"] = {**config["vision_config"], **self.vision}
        return AutoConfig.for_model(**config)

    def shorten(self, depths: tuple[int, int]) -> tuple[Shape, list[tuple[Shape, float]]]:
        """Returns a shallow shape, and others with more layers of one kind, each with how often the whole has those.

        Text decoders have the one or the other of `depths`. A tower with windows has one layer of each kind, or two of
        one kind; other towers stay whole. A shape that is shallow already stays as it is.
        """
        (low, high), depth = depths, self.text["num_hidden_layers"]
        if depth <= high:
            return self, []
        shallow = replace(self, text={**self.text, "num_hidden_layers": low})
        full = self.vision.get("fullatt_block_indexes")

        def with_tower(layers: int, *full: int) -> Shape:
            return replace(shallow, vision={**self.vision, "depth": layers, "fullatt_block_indexes": [*full]})

        deeper = []
        if full:
            deeper = [
                (with_tower(3, 2), self.vision["depth"] - len(full) - 1),
                (with_tower(3, 1, 2), len(full) - 1),
            ]
            shallow = with_tower(2, 1)
        longer = replace(shallow, text={**self.text, "num_hidden_layers": high})
        return shallow, [(longer, (depth - low) / (high - low)), *deeper]

    def describe(self) -> dict[str, Any]:
        """Returns every number of the shape, for the results file."""
        return asdict(self)


FAMILIES: dict[str, dict[str, Any]] = {
    "llava": {
        "model_type": "llava",
        "image_token_index": 3,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "clip_vision_model"},
    },
    "bunny": {
        "model_type": "llava",
        "image_token_index": 3,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "text_config": {"model_type": "phi", "resid_pdrop": 0.0},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False},
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "image_token_id": 3,
        "video_token_id": 4,
        "vision_start_token_id": 5,
        "vision_end_token_id": 6,
        "text_config": {"model_type": "qwen2_5_vl_text"},
        "vision_config": {"in_channels": 3},
    },
    "qwen3_vl_moe": {
        "model_type": "qwen3_vl_moe",
        "image_token_id": 3,
        "video_token_id": 4,
        "vision_start_token_id": 5,
        "vision_end_token_id": 6,
        "text_config": {"model_type": "qwen3_vl_moe_text"},
        "vision_config": {"in_channels": 3},
    },
}
"""What a family's configuration holds beside its sizes."""


def _llama(width: int, layers: int, vocabulary: int, inner: int) -> dict[str, Any]:
    heads = dict(num_attention_heads=width // 64, num_key_value_heads=width // 64)
    return dict(
        hidden_size=width,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        intermediate_size=inner,
        max_position_embeddings=4096,
        **heads,
    )


CLIP = dict(
    hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3, image_size=336, patch_size=14
)
"""576 patches. Widths the prototype's notes leave out are in Llama's proportions: heads of 64, 2.6875 times as wide."""

BODY = Shape("body", "llava", _llama(512, 2, 400, 1376), CLIP, lora_rank=8, image_size=336)
"""The head is 3 % of the weights that multiply, as in a 7B model: the shape to extrapolate from."""
BRIEF = Shape("brief", "llava", _llama(256, 6, 32_000, 688), CLIP, lora_rank=4, image_size=336)
"""The head is 63 %: a small model with a full vocabulary."""
TINY = Shape(
    "tiny",
    "llava",
    _llama(64, 1, 128, 96),
    {**CLIP, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "image_size": 28},
    lora_rank=2,
    image_size=28,
    lengths=Lengths(prompt=(4, 8), answer=(3, 9)),
)
"""For tests."""

LLAVA_7B = Shape(
    "LLaVA-1.5-7B",
    "llava",
    dict(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32064,
        max_position_embeddings=4096,
    ),
    dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    ),
    lora_rank=64,
    image_size=336,
)
BUNNY_3B = Shape(
    "Bunny-v1.0-3B",
    "bunny",
    dict(
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=50296,
        partial_rotary_factor=0.4,
        hidden_act="gelu_new",
        max_position_embeddings=2048,
    ),
    dict(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    ),
    lora_rank=64,
    image_size=384,
)
QWEN_7B = Shape(
    "Qwen2.5-VL-7B",
    "qwen2_5_vl",
    dict(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    ),
    dict(
        depth=32,
        hidden_size=1280,
        num_heads=16,
        intermediate_size=3420,
        out_hidden_size=3584,
        patch_size=14,
        window_size=112,
        fullatt_block_indexes=[7, 15, 23, 31],
    ),
    lora_rank=64,
    image_size=672,
)
"""Its images have 24 × 24 = 576 tokens: a picture of 672 × 672."""
LARGE = {"llava": LLAVA_7B, "bunny": BUNNY_3B, "qwen": QWEN_7B}

QWEN3_30B = Shape(
    "Qwen3-VL-30B-A3B",
    "qwen3_vl_moe",
    dict(
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=262144,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    ),
    dict(
        depth=27,
        hidden_size=1152,
        num_heads=16,
        intermediate_size=4304,
        out_hidden_size=2048,
        patch_size=16,
        num_position_embeddings=2304,
        deepstack_visual_indexes=[8, 16, 24],
    ),
    lora_rank=64,
    image_size=768,
)
"""Its images have 24 × 24 = 576 tokens: a picture of 768 × 768. The experts are no linear layers, which LoRA leaves."""
SIMULATED = LARGE | {"qwen3_moe": QWEN3_30B}
"""What is simulated: a GPU alone could not hold the last one for training in 80 GB with room for much else."""


def shrink(shape: Shape) -> Shape:
    """Returns a shape of the same family in miniature, so that the measurement can be tried without a GPU."""
    text = {**shape.text, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128}
    text |= {"num_attention_heads": 4, **({"num_key_value_heads": 2} if "num_key_value_heads" in text else {})}
    if shape.family.startswith("qwen"):
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        vision = {**shape.vision, "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
        vision |= {"out_hidden_size": 64}
        if shape.family == "qwen2_5_vl":
            vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        else:
            text |= {"head_dim": 16, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
            vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    else:
        vision = {**shape.vision, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 2, "image_size": 56, "projection_dim": 32}
        if shape.family == "bunny":
            del vision["projection_dim"]
    return Shape(f"{shape.name} in miniature", shape.family, text, vision, 2, 56, TINY.lengths)
