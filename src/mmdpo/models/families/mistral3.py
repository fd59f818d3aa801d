"""Mistral 3 and Pixtral's tower: pictures in their own shape."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class Mistral3(Family):
    """A mark ends every row of an image's tokens; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    shares_prefix: ClassVar[bool] = True


FAMILY = Mistral3()
