"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4.1V: image tokens by picture size, three-dimensional positions.

After an image, rotary positions go on from its largest; nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"), shares_prefix=True)
