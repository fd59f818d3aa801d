"""LLaVA-NeXT (1.6): tiles of the picture beside a thumbnail."""

from __future__ import annotations

from typing import ClassVar

from mmdpo.models.families._family import Family


class LlavaNext(Family):
    """The number of image tokens depends on the picture; nothing differs from the generic family."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    shares_prefix: ClassVar[bool] = True


FAMILY = LlavaNext()
