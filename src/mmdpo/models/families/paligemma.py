"""PaliGemma: the prompt is read in both directions, the answer from left to right."""

from __future__ import annotations

from typing import Any, ClassVar

from mmdpo.models.families._family import Family


class PaliGemma(Family):
    """`token_type_ids` are 0 over the prompt, which is fully visible to itself, and 1 over the answer."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    shares_prefix: ClassVar[bool] = True
    answer_token_types: ClassVar[dict[str, int]] = {"token_type_ids": 1}

    def complete_prompt(self, processor: Any, prompt: str) -> str:
        """Returns the prompt as the processor has it: BOS after the last image, a line break at the end."""
        token = self.image_placeholder(processor)
        images, found, text = prompt.rpartition(token)
        return f"{images}{found}{processor.tokenizer.bos_token}{text}\n"


FAMILY = PaliGemma()
