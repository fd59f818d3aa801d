"""InternVL in the layout of transformers (the `-hf` checkpoints)."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class InternVL(Family):
    """Tiles of all images lie in one dimension; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    shares_prefix: ClassVar[bool] = True


FAMILY = InternVL()
