"""Idefics3 and SmolVLM: tiles with a text of their own in front of each."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class Idefics3(Family):
    """SmolVLM is the same network in smaller sizes; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = (
        "idefics3",
        "smolvlm",
    )
    shares_prefix: ClassVar[bool] = True


FAMILY = Idefics3()
