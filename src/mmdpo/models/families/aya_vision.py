"""Aya Vision: tiles, and a text decoder with windows in three of four layers.

SigLIP and Cohere 2, which scales its logits; nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("aya_vision",), shares_prefix=True)
