"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: an image stands between two marks, positions are three-dimensional."""

from __future__ import annotations

from typing import Any, ClassVar

from mmdpo.families._family import Family


class QwenVL(Family):
    """The forward builds M-RoPE positions itself from the grids of the images that stand in each row."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

    def image_placeholder(self, processor: Any) -> str:
        """Returns the image token between the marks that the model was trained with."""
        return f"<|vision_start|>{processor.image_token}<|vision_end|>"


FAMILY = QwenVL()
