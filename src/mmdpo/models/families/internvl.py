"""InternVL in the layout of transformers (the `-hf` checkpoints).

Tiles of all images lie in one dimension; nothing differs from the generic family.
"""

from mmdpo.models.families import Family

FAMILY = Family(("internvl",), shares_prefix=True)
