"""PaliGemma: the prompt is read in both directions, the answer from left to right."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.families._family import Family


class PaliGemma(Family):
    """`token_type_ids` are 0 over the prompt, which is fully visible to itself, and 1 over the answer."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    answer_token_types: ClassVar[dict[str, int]] = {"token_type_ids": 1}


FAMILY = PaliGemma()
