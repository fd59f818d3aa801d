"""Aya Vision: tiles, and a text decoder with windows in three of four layers."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class AyaVision(Family):
    """SigLIP and Cohere 2, which scales its logits; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)
    shares_prefix: ClassVar[bool] = True


FAMILY = AyaVision()
