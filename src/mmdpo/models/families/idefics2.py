"""Idefics2: a resampler makes as many tokens of every picture.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("idefics2",), shares_prefix=True)
