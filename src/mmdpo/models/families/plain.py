"""Families that differ from the generic one in nothing, or in a setting; what needs code has a file of its own."""

from mmdpo.models.families import Family

ALIKE = (
    "aya_vision",  # tiles, and windows in three of four layers of the text decoder, which scales its logits
    "cohere2_vision",  # Command A Vision: Aya Vision with a gate in its projector
    "deepseek_vl",  # every patch of a square picture is a token
    "gemma3n",  # a convolutional tower of timm, a text decoder with several streams of states; sound is not trained
    "gemma4",  # pictures in their own shape, layers that borrow keys and values, and experts in some sizes
    "glm4v",  # GLM-4.1V: image tokens by picture size, three-dimensional positions
    "glm46v",  # GLM-4.6V
    "exaone4_5",  # Qwen2.5-VL's tower, positions in one dimension
    "granite4_vision",  # LLaVA-NeXT's tiles; features of several layers are added to as many of the text decoder
    "idefics3",  # tiles with a text of their own in front of each
    "smolvlm",  # Idefics3 in smaller sizes
    "internvl",  # in the layout of transformers (the `-hf` checkpoints); tiles of all images lie in one dimension
    "kimi_k25",  # pictures in their own shape, and DeepSeek-V3 with low-rank attention and experts
    "lighton_ocr",  # Pixtral's tower, patches merged two by two, and Qwen3
    "mistral3",  # Pixtral's tower: pictures in their own shape, a mark at the end of every row of their tokens
    "vipllava",  # LLaVA-1.5 with features of several layers of the tower
)

FAMILIES = (
    Family(ALIKE, shares_prefix=True),
    # LLaVA-NeXT (1.6) has tiles beside a thumbnail; LLaVA-OneVision has them for one picture, thumbnails for several.
    Family(("llava_next", "llava_next_video", "llava_onevision"), shares_prefix=True, sizes_stay_on_host=True),
    # GLM-4.5V: GLM-4.1V with a mixture of experts. PEFT (0.19 to 0.21) takes the names of its dense layers and shared
    # experts for those of experts as transformers 4 kept them, and puts adapters of twice the rank on the experts in
    # their place: LoRA reaches its attention alone.
    Family(("glm4v_moe",), shares_prefix=True, unadapted=("gate_proj", "up_proj", "down_proj")),
    # LFM2-VL's text decoder has convolutions along the row, which would reach from one answer into the next. Its
    # processor says neither which tiles belong to which picture nor are their tokens in proportion, so that a picture
    # which several rows show is encoded for each of them.
    Family(("lfm2_vl",)),
    # BLIP-2 and InstructBLIP: what the query transformer makes of a picture depends on the prompt (InstructBLIP), or is
    # projected outside of the forward that takes encoded images (BLIP-2).
    Family(
        ("blip-2", "instructblip", "instructblipvideo"),
        refused="its query transformer stands between pictures and text, so that a picture cannot be encoded once for "
        "all answers. Take a model that puts image features among the text, such as LLaVA, Qwen-VL or Gemma 3",
    ),
    Family(
        ("diffusion_gemma",),
        refused="it writes blocks of tokens by diffusion, and has no log-probability of a token given those before it. "
        "Take a model that writes token by token, such as Gemma 4",
    ),
    # Fuyu's patches go through one linear layer into the text decoder; there is no vision tower.
    Family(
        ("fuyu",),
        refused="its processor writes places and ends of its own into a prompt, pads it on the left, and gives a "
        "picture under another name than its model takes. Take a model with a vision tower, such as LLaVA, Qwen-VL or "
        "Gemma 3",
    ),
)
