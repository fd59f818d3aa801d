"""LightOnOCR: Pixtral's tower, patches merged two by two, and Qwen3.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("lighton_ocr",), shares_prefix=True)
