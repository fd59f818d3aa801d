"""Ovis 2: features are mixtures of the rows of a visual vocabulary's table, which is its projector."""

from typing import Any

from mmdpo.models.families import Family

ATOM = "<IMG_ATOM>"
"""What the processor writes for each feature of a tile, in the place of the image token."""


class Ovis2(Family):
    """Marks between tiles are embedded by the table too; they are no features of the picture."""

    def image_token_id(self, processor: Any) -> int | None:
        """Returns the token of a feature; the processor's own `image_token_id` is that of a picture's place."""
        return int(processor.tokenizer.convert_tokens_to_ids(ATOM))


FAMILIES = (Ovis2(("ovis2",), shares_prefix=True),)
