"""As many tokens as an image has patches, and three-dimensional positions: Qwen-VL and GLM-4V."""

from __future__ import annotations

from typing import Any

import transformers

from tiny_models.parts import TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import CHATML, qwen_tokenizer, turn_template

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
GLM_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
IMAGES = dict(size={"shortest_edge": 8 * 8, "longest_edge": 24 * 24}, patch_size=4, temporal_patch_size=2, merge_size=2)
VISION = dict(depth=2, hidden_size=32, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
WIDER = dict(**VISION, out_hidden_size=32, intermediate_size=48)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def qwen2_vl() -> TinyModel:
    """The first of them."""
    return _qwen("Qwen2VL", dict(**VISION, embed_dim=32, mlp_ratio=2))


def qwen2_5_vl() -> TinyModel:
    """With attention in windows in all but the named layers of the vision tower."""
    return _qwen("Qwen2_5_VL", dict(**WIDER, window_size=16, fullatt_block_indexes=[1]))


def qwen3_vl() -> TinyModel:
    """The features of an early vision layer are added to the first layers of the language model."""
    vision = dict(**WIDER, num_position_embeddings=16, deepstack_visual_indexes=[0])
    return _qwen("Qwen3VL", vision, head_dim=8)


def qwen3_5() -> TinyModel:
    """With linear attention, which carries a state along the row, in all but every fourth layer."""
    linear = {f"linear_{name}": size for name, size in (("key_head_dim", 8), ("value_head_dim", 8))}
    heads = dict(linear_num_key_heads=2, linear_num_value_heads=4, head_dim=16)
    rope = {**ROPE, "mrope_section": [1, 0, 1], "partial_rotary_factor": 0.25}
    layers = ["linear_attention", "full_attention"]
    text = dict(**linear, **heads, layer_types=layers, rope_parameters=rope)
    return _qwen("Qwen3_5", dict(**WIDER, num_position_embeddings=16), processor="Qwen3VL", **text)


def _qwen(family: str, vision: dict[str, Any], *, processor: str | None = None, **text: Any) -> TinyModel:
    tokenizer = qwen_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    made = without_video(
        getattr(transformers, f"{processor or family}Processor"),
        image_processor("qwen2_vl.Qwen2VLImageProcessor", **IMAGES),
        tokenizer,
        chat_template=turn_template(**CHATML, image=QWEN_IMAGE),
    )
    marks = dict(image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
    marks |= dict(vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")
    model = _build(family, tokenizer, vision, {"rope_parameters": ROPE, **text}, marks)
    return TinyModel(model, made, QWEN_IMAGE, "<|im_end|>\n", projector=("merger",))


def glm4v() -> TinyModel:
    """The language model keeps two linear layers of a block in one."""
    marks = dict(image_token_id="<|image|>", video_token_id="<|video|>")
    marks |= {f"{kind}_{end}_token_id": f"<|{name}_of_{kind}|>" for kind in ("image", "video") for end, name in ENDS}
    tokenizer = qwen_tokenizer(*marks.values())
    processor = without_video(
        transformers.Glm4vProcessor,
        image_processor("glm4v.Glm4vImageProcessor", **IMAGES | {"size": {"shortest_edge": 64, "longest_edge": 1152}}),
        tokenizer,
        chat_template=turn_template(**CHATML, image=GLM_IMAGE),
    )
    model = _build("Glm4v", tokenizer, dict(**WIDER, image_size=16), {"rope_parameters": ROPE}, marks)
    return TinyModel(model, processor, GLM_IMAGE, "<|im_end|>\n", projector=("merger",))


ENDS = (("start", "begin"), ("end", "end"))


def _build(family: str, tokenizer: Any, vision: dict[str, Any], text: dict[str, Any], marks: dict[str, str]) -> Any:
    config_class = getattr(transformers, f"{family}Config")
    text_class = config_class.sub_configs["text_config"]
    config = config_class(
        vision_config=dict(**vision, in_channels=3),
        text_config=text_config(text_class, tokenizer, **text).to_dict(),
        tie_word_embeddings=False,
        **{name: token_id(tokenizer, mark) for name, mark in marks.items()},
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)


MODELS = models(qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, glm4v)
