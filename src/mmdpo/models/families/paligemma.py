"""PaliGemma: the prompt is read in both directions, the answer from left to right."""

from typing import Any

from mmdpo.models.families import Family


class PaliGemma(Family):
    """`token_type_ids` are 0 over the prompt, which is fully visible to itself, and 1 over the answer."""

    def complete_prompt(self, processor: Any, prompt: str) -> str:
        """Returns the prompt as the processor has it: BOS after the last image, a line break at the end."""
        images, found, text = prompt.rpartition(self.image_placeholder(processor))
        return f"{images}{found}{processor.tokenizer.bos_token}{text}\n"


FAMILIES = (
    PaliGemma(("paligemma",), shares_prefix=True, both_directions=True, answer_token_types={"token_type_ids": 1}),
)
