"""DeepSeek-VL: every patch of a square picture is a token.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("deepseek_vl",), shares_prefix=True)
