"""Qwen-VL, GLM-V and what is built like them: image tokens by picture size, three-dimensional positions.

After an image, rotary positions go on from its largest; nothing differs from the generic family. In their mixtures of
experts every token is routed by itself, so that experts see the same tokens in shared rows. EXAONE 4.5 has Qwen2.5-VL's
tower and counts positions in one dimension.
"""

from mmdpo.models.families import Family

FAMILY = Family(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm46v", "exaone4_5"),
    shares_prefix=True,
)
