"""Granite 4 Vision: LLaVA-NeXT's tiles; features of several layers are added to as many of the text decoder.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("granite4_vision",), shares_prefix=True)
