"""Gemma 3: the processor expands a begin-of-image mark into the image's tokens."""

from typing import Any

from mmdpo.models.families import Family


class Gemma3(Family):
    """`token_type_ids` mark image tokens, which attend to each other in both directions; answers are text, type 0."""

    def image_token_id(self, processor: Any) -> int | None:
        """Returns the soft token; the processor's own `image_token_id` is that of the mark."""
        return int(processor.tokenizer.image_token_id)


FAMILIES = (Gemma3(("gemma3",), shares_prefix=True),)
