"""Idefics2: a resampler makes as many tokens of every picture."""

import re
from typing import Any

from mmdpo.models.families import Family


class Idefics2(Family):
    """The processor marks where a picture begins and ends, and words stand apart from that mark."""

    def complete_prompt(self, processor: Any, prompt: str) -> str:
        """Returns the prompt with a space between a picture and a word that follows it, as the processor has it."""
        return re.sub(rf"{re.escape(processor.image_token)}(?=[^\s<])", rf"{processor.image_token} ", prompt)


FAMILIES = (Idefics2(("idefics2",), shares_prefix=True),)
