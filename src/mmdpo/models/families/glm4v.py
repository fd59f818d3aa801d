"""GLM-4.1V, GLM-4.6V and EXAONE 4.5: image tokens by picture size, three-dimensional positions.

Nothing differs from the generic family. EXAONE 4.5 has Qwen2.5-VL's tower and counts positions in one dimension.
"""

from mmdpo.models.families import Family

FAMILY = Family(("glm4v", "glm46v", "exaone4_5"), shares_prefix=True)
