"""LLaVA-OneVision (SigLIP and Qwen2): tiles for one picture, thumbnails for several.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("llava_onevision",), shares_prefix=True, sizes_stay_on_host=True)
