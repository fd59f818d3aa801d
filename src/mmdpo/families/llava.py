"""LLaVA-1.5 and what is loaded in its class: Bunny (SigLIP and Phi), BakLLaVA."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.families._family import Family


class Llava(Family):
    """A vision tower, a projector of two layers and any text decoder; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    shares_prefix: ClassVar[bool] = True


FAMILY = Llava()
