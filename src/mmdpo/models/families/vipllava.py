"""ViP-LLaVA: LLaVA-1.5 with features of several layers of the tower.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("vipllava",), shares_prefix=True)
