"""Models that transformers builds with torchvision's or timm's help alone: LFM2-VL, Kimi K2.5 and Gemma 3n."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import transformers
from transformers import ProcessorMixin

from tiny_models.parts import VISION, TinyModel, image_processor, models, text_config, token_id, without_video
from tiny_tokenizers import CHATML, gemma_tokenizer, qwen_tokenizer, turn_template

NEEDS = {"lfm2_vl": "torchvision", "kimi_k25": "torchvision", "gemma3n": "timm"}
"""Packages without which the test of a model is left out."""
LOW_RANKS = dict(
    kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4
)
DEEPSEEK_EXPERTS = dict(
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
)


def lfm2_vl() -> TinyModel:
    """Tiles of SigLIP 2; a convolution along the row in every second layer of the text decoder."""
    marks = ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
    places = (f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))
    tokenizer = qwen_tokenizer("<image>", *marks, *places)
    sizes = dict(tile_size=16, min_image_tokens=1, max_image_tokens=4, encoder_patch_size=4, max_tiles=3)
    pixels = transformers.Lfm2VlImageProcessor(**sizes, size={"height": 16, "width": 16})
    processor = transformers.Lfm2VlProcessor(
        pixels, tokenizer, chat_template=turn_template(**CHATML, image="<image>\n")
    )
    vision = {name: size for name, size in VISION.items() if name != "image_size"}
    layers = dict(layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(**vision, patch_size=4, num_patches=16, vision_use_head=False),
        text_config=_without_dropout(transformers.Lfm2Config, tokenizer, **layers),
        image_token_id=token_id(tokenizer, "<image>"),
        projector_hidden_size=32,
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    return TinyModel(transformers.Lfm2VlForConditionalGeneration(config), processor, "<image>", "<|im_end|>\n")


def kimi_k25() -> TinyModel:
    """Pictures in their own shape; DeepSeek-V3 with low-rank attention and experts."""
    tokenizer = qwen_tokenizer("<|media_pad|>", "<|kimi_k25_video_placeholder|>", "<|media_begin|>", "<|media_end|>")
    sizes = dict(patch_size=4, max_patches=64, size={"max_height": 24, "max_width": 24})
    image = "<|media_begin|><|media_pad|><|media_end|>"
    processor = without_video(
        transformers.Kimi_K25Processor,
        transformers.Kimi_K25ImageProcessor(**sizes),
        tokenizer,
        chat_template=turn_template(**CHATML, image=image),
    )
    config = transformers.Kimi_K25Config(
        vision_config=dict(
            **{name: size for name, size in VISION.items() if name != "image_size"},
            patch_size=4,
            pos_emb_height=6,
            pos_emb_width=6,
        ),
        text_config=text_config(transformers.DeepseekV3Config, tokenizer, **DEEPSEEK_EXPERTS, **LOW_RANKS),
        projection_hidden_size=32,
        image_token_id=token_id(tokenizer, "<|media_pad|>"),
        video_token_id=token_id(tokenizer, "<|kimi_k25_video_placeholder|>"),
        tie_word_embeddings=False,
    )
    model = transformers.Kimi_K25ForConditionalGeneration(config)
    return TinyModel(model, processor, image, "<|im_end|>\n", projector=("projector",))


def gemma3n() -> TinyModel:
    """A convolutional tower of timm; several streams of states, embeddings by layer, layers that borrow keys."""
    tokenizer = gemma_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
        boa_token="<start_of_audio>",
        eoa_token="<end_of_audio>",
        audio_token="<audio_soft_token>",
    )
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        processor = transformers.Gemma3nProcessor(
            None,
            image_processor("siglip.SiglipImageProcessor", size={"height": 64, "width": 64}),
            tokenizer,
            image_seq_length=4,
            chat_template=turn_template(
                first="{{ bos_token }}",
                image="<image_soft_token>",
                start="<start_of_turn>",
                names="{{ message['role'] | replace('assistant', 'model') }}",
                colon="\n",
                end="<end_of_turn>\n",
            ),
        )
    words = len(tokenizer)
    text: dict[str, Any] = dict(
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=8,
        head_dim=8,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=words,
        altup_num_inputs=2,
        laurel_rank=4,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    )
    config = transformers.Gemma3nConfig(
        text_config=text_config(transformers.Gemma3nTextConfig, tokenizer, **text),
        vision_config=dict(architecture="test_convnext", hidden_size=64, vocab_offset=words, vocab_size=4),
        audio_config=dict(
            hidden_size=16,
            input_feat_size=16,
            conf_num_hidden_layers=1,
            conf_num_attention_heads=2,
            sscp_conv_channel_size=(4, 4),
            vocab_offset=words + 4,
            vocab_size=4,
        ),
        vision_soft_tokens_per_image=4,
        **{
            f"{name}_token_id": token_id(tokenizer, getattr(tokenizer, f"{name}_token"))
            for name in ("boi", "eoi", "image", "boa", "eoa", "audio")
        },
        tie_word_embeddings=False,
    )
    model = transformers.Gemma3nForConditionalGeneration(config)
    mark, end = "<image_soft_token>", "<end_of_turn>\n"
    return TinyModel(model, processor, mark, end, bos="<bos>", projector=("embed_vision",))


def _without_dropout(config: type, tokenizer: Any, **options: Any) -> Any:
    """Returns a text configuration that knows no dropout of attention."""
    made = text_config(lambda **given: {k: v for k, v in given.items() if k != "attention_dropout"}, tokenizer)
    return config(**{**made, **options})


MODELS = models(lfm2_vl, kimi_k25, gemma3n)
