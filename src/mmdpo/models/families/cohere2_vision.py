"""Command A Vision: Aya Vision with a gate in its projector.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("cohere2_vision",), shares_prefix=True)
