"""Idefics3 and SmolVLM, the same network in smaller sizes: tiles with a text of their own in front of each.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("idefics3", "smolvlm"), shares_prefix=True)
