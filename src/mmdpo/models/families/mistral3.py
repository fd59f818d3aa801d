"""Mistral 3 and Pixtral's tower: pictures in their own shape.

A mark ends every row of an image's tokens; nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("mistral3",), shares_prefix=True)
