"""LLaVA-OneVision: tiles for one picture, thumbnails for several."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class LlavaOnevision(Family):
    """SigLIP and Qwen2; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    shares_prefix: ClassVar[bool] = True


FAMILY = LlavaOnevision()
