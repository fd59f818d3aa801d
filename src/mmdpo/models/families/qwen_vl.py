"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: image tokens by picture size, three-dimensional positions.

HyperCLOVA X has Qwen2.5-VL's tower, and positions that count tokens.

After an image, rotary positions go on from its largest. In the mixture of experts every token is routed by itself, so
that experts see the same tokens in shared rows.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import vision_utils

from mmdpo.models.devices import send
from mmdpo.models.families import Family
from mmdpo.models.seams import attention_of


class QwenVL(Family):
    """The tower asks for the grids of pictures several times, and takes ready answers as arguments."""

    def plan_encoder(self, owner: Any, sizes: Mapping[str, Tensor], device: Any) -> dict[str, Any]:
        """Returns positions, windows and lengths of the patches, worked out on the host by transformers' functions."""
        grids, tower = sizes["image_grid_thw"], getattr(owner, "visual", None) or owner.vision_model
        merge = int(tower.spatial_merge_size)
        planned: dict[str, Any] = {"position_ids": vision_utils.get_vision_position_ids(grids, merge)}
        lengths = {"cu_seqlens": vision_utils.get_vision_cu_seqlens(grids)}
        if hasattr(tower, "window_size"):
            windows = dict(spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size)
            planned["window_index"], lengths["cu_window_seqlens"] = vision_utils.get_vision_window_index(
                grids, **windows
            )
        if hasattr(tower, "interpolation_mode"):
            planned["interp_indices"], planned["interp_weights"] = (
                vision_utils.get_vision_interpolation_indices_and_weights(
                    grids,
                    num_grid_per_side=tower.num_grid_per_side,
                    mode=tower.interpolation_mode,
                    align_corners=tower.interpolation_align_corners,
                    spatial_merge_size=merge,
                )
            )
        if "flash" not in attention_of(tower):
            # Any other kernel is called picture by picture, from lists of lengths.
            return {name: send(tensor, device) for name, tensor in planned.items()} | lengths
        for name, most in (("cu_seqlens", "max_seqlen"), ("cu_window_seqlens", "max_window_seqlen")):
            if name in lengths:
                planned |= {name: lengths[name], most: int(lengths[name].diff().max())}
        return {name: send(value, device) if isinstance(value, Tensor) else value for name, value in planned.items()}


FAMILIES = (
    QwenVL(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "hyperclovax_vision_v2"),
        shares_prefix=True,
        sizes_stay_on_host=True,
    ),
)
