"""Kimi K2.5: pictures in their own shape, and DeepSeek-V3 with low-rank attention and experts.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("kimi_k25",), shares_prefix=True)
