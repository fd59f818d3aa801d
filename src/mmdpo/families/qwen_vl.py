"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4.1V: image tokens by picture size, three-dimensional positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor, nn

from mmdpo.families._family import Family


class QwenVL(Family):
    """Rotary positions have three rows (time, height, width); behind an image they go on from its largest (M-RoPE)."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
    shares_prefix: ClassVar[bool] = True

    def prompt_positions(self, model: nn.Module, batch: Mapping[str, Any]) -> Int[Tensor, "3 K P"] | None:
        """Returns the positions that the model itself gives to the contexts, each alone."""
        if "mm_token_type_ids" not in batch["token_types"]:
            return None  # no context of the batch has an image
        owner = next(module for module in model.modules() if hasattr(type(module), "get_rope_index"))
        positions: Tensor = owner.get_rope_index(  # type: ignore[operator]
            batch["prompt_ids"],
            mm_token_type_ids=batch["token_types"]["mm_token_type_ids"],
            image_grid_thw=batch["image_inputs"].get("image_grid_thw"),
            attention_mask=batch["prompt_mask"].long(),
        )[0]
        return positions


FAMILY = QwenVL()
