"""LLaVA-NeXT (1.6): tiles of the picture beside a thumbnail.

The number of image tokens depends on the picture; nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("llava_next", "llava_next_video"), shares_prefix=True, sizes_stay_on_host=True)
