"""Ovis 2: features are mixtures of the rows of a visual vocabulary's table, which is its projector.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("ovis2",), shares_prefix=True)
