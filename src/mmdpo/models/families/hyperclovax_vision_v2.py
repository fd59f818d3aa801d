"""HyperCLOVA X: Qwen2.5-VL's tower, one linear layer, and a text decoder whose positions count tokens.

Nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("hyperclovax_vision_v2",), shares_prefix=True)
