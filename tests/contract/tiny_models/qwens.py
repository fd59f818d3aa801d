"""As many tokens as an image has patches, and three-dimensional positions: Qwen-VL, GLM-V, and mixtures of experts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import transformers
from transformers import ProcessorMixin

from tiny_models.parts import TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import CHATML, qwen_tokenizer, turn_template

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
GLM_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
IMAGES = dict(size={"shortest_edge": 8 * 8, "longest_edge": 24 * 24}, patch_size=4, temporal_patch_size=2, merge_size=2)
VISION = dict(depth=2, hidden_size=32, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
WIDER = dict(**VISION, out_hidden_size=32, intermediate_size=48)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
GLM_EXPERTS = dict(
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
    head_dim=16,
)
LINEAR: dict[str, Any] = dict(
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    head_dim=16,
    layer_types=["linear_attention", "full_attention"],
    rope_parameters={**ROPE, "mrope_section": [1, 0, 1], "partial_rotary_factor": 0.25},
)
"""Of the text decoder of Qwen3.5."""


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
    return _qwen("Qwen3_5", dict(**WIDER, num_position_embeddings=16), processor="Qwen3VL", **LINEAR)


def qwen3_vl_moe() -> TinyModel:
    """Each token goes to two of four experts, whose weights lie in one tensor."""
    vision = dict(**WIDER, num_position_embeddings=16, deepstack_visual_indexes=[0])
    return _qwen("Qwen3VLMoe", vision, processor="Qwen3VL", head_dim=8, **QWEN_EXPERTS)


def exaone4_5() -> TinyModel:
    """Qwen2.5-VL's tower with fewer keys than queries, and a text decoder whose every second layer has a window."""
    vision = dict(**WIDER, window_size=16, fullatt_block_indexes=[1], num_key_value_heads=2)
    windows = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    return _qwen("Exaone4_5_", vision, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **windows)


def qwen3_5_moe() -> TinyModel:
    """Qwen3.5 with experts, one of them shared by all tokens."""
    experts = dict(**QWEN_EXPERTS, shared_expert_intermediate_size=16)
    return _qwen("Qwen3_5Moe", dict(**WIDER, num_position_embeddings=16), processor="Qwen3VL", **LINEAR, **experts)


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


def hyperclovax_vision_v2() -> TinyModel:
    """Qwen2.5-VL's tower and positions that count tokens; logits are scaled after the head."""
    tokenizer = qwen_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    processor = without_video(
        transformers.HyperCLOVAXVisionV2Processor,
        image_processor("qwen2_vl.Qwen2VLImageProcessor", **IMAGES),
        tokenizer,
        chat_template=turn_template(**CHATML, image=QWEN_IMAGE),
    )
    scales = dict(embedding_multiplier=2.0, logits_scaling=0.5, residual_multiplier=0.5, attention_multiplier=0.5)
    config = transformers.HyperCLOVAXVisionV2Config(
        vision_config=dict(
            **WIDER, model_type="qwen2_5_vl_vision", in_channels=3, window_size=16, fullatt_block_indexes=[1]
        ),
        text_config=text_config(transformers.HyperCLOVAXConfig, tokenizer, **scales),
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        tie_word_embeddings=False,
    )
    model = transformers.HyperCLOVAXVisionV2ForConditionalGeneration(config)
    return TinyModel(model, processor, QWEN_IMAGE, "<|im_end|>\n", projector=("merger", "projector"))


def glm4v() -> TinyModel:
    """The language model keeps two linear layers of a block in one."""
    return _glm("Glm4v", "glm4v.Glm4vImageProcessor")


def glm46v() -> TinyModel:
    """GLM-4.6V: the same network with a processor that has one token for pictures and videos."""
    return _glm("Glm46V", "glm46v.Glm46VImageProcessor")


def glm4v_moe() -> TinyModel:
    """GLM-4.5V: experts in groups, one of them shared by all tokens, in all layers but the first."""
    return _glm("Glm4vMoe", "glm4v.Glm4vImageProcessor", **GLM_EXPERTS)


def _glm(family: str, pixels: str, **text: Any) -> TinyModel:
    marks = dict(image_token_id="<|image|>", video_token_id="<|video|>")
    marks |= {f"{kind}_{end}_token_id": f"<|{name}_of_{kind}|>" for kind in ("image", "video") for end, name in ENDS}
    tokenizer = qwen_tokenizer(*marks.values())
    sizes = IMAGES | {"size": {"shortest_edge": 64, "longest_edge": 1152}}
    processor = without_video(
        getattr(transformers, f"{family.removesuffix('Moe')}Processor"),
        image_processor(pixels, **sizes),
        tokenizer,
        chat_template=turn_template(**CHATML, image=GLM_IMAGE),
    )
    model = _build(family, tokenizer, dict(**WIDER, image_size=16), {"rope_parameters": ROPE, **text}, marks)
    return TinyModel(model, processor, GLM_IMAGE, "<|im_end|>\n", projector=("merger",))


def minicpmv4_6() -> TinyModel:
    """Not among `MODELS`: what its tower says of a picture depends on the pictures beside it."""
    named = {"image_token": "<image>", "video_token": "<video>"}
    named |= {f"{kind}_{end}_token": f"<{kind}_{end}>" for kind in ("image", "slice", "image_id") for end, _ in ENDS}
    tokenizer = qwen_tokenizer(**named)
    pixels = image_processor(
        "minicpmv4_6.MiniCPMV4_6ImageProcessor", scale_resolution=32, patch_size=4, slice_mode=False, use_image_id=False
    )
    video = SimpleNamespace(slice_mode=False, downsample_mode="16x")
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        processor = transformers.MiniCPMV4_6Processor(
            pixels, video, tokenizer, chat_template=turn_template(**CHATML, image="<image>\n")
        )
    config = transformers.MiniCPMV4_6Config(
        vision_config=dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=4,
        ),
        text_config=text_config(transformers.Qwen3_5TextConfig, tokenizer, **LINEAR).to_dict(),
        insert_layer_id=1,
        image_size=32,
        image_token_id=token_id(tokenizer, "<image>"),
        video_token_id=token_id(tokenizer, "<video>"),
        tie_word_embeddings=False,
    )
    model = transformers.MiniCPMV4_6ForConditionalGeneration(config)
    return TinyModel(model, processor, "<image>", "<|im_end|>\n", projector=("merger",))


ENDS = (("start", "begin"), ("end", "end"))


def _build(family: str, tokenizer: Any, vision: dict[str, Any], text: dict[str, Any], marks: dict[str, str]) -> Any:
    config_class = getattr(transformers, f"{family}Config")
    text_class = type(config_class().text_config)
    config = config_class(
        vision_config=dict(**vision, in_channels=3),
        text_config=text_config(text_class, tokenizer, **text).to_dict(),
        tie_word_embeddings=False,
        **{name: token_id(tokenizer, mark) for name, mark in marks.items()},
    )
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)


MODELS = models(
    qwen2_vl,
    qwen2_5_vl,
    qwen3_vl,
    qwen3_vl_moe,
    qwen3_5,
    qwen3_5_moe,
    exaone4_5,
    hyperclovax_vision_v2,
    glm4v,
    glm46v,
    glm4v_moe,
)
DEPENDENT = models(minicpmv4_6)
