"""Gemma 3n: a convolutional tower of timm, and a text decoder with several streams of states.

Nothing differs from the generic family. What it can hear is not trained.
"""

from mmdpo.models.families import Family

FAMILY = Family(("gemma3n",), shares_prefix=True)
