"""Gemma 4: pictures in their own shape, layers that borrow keys and values, and experts in some sizes.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("gemma4",), shares_prefix=True)
