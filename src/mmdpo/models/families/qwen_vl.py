"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4.1V: image tokens by picture size, three-dimensional positions."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class QwenVL(Family):
    """Behind an image, rotary positions go on from its largest; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
    shares_prefix: ClassVar[bool] = True


FAMILY = QwenVL()
