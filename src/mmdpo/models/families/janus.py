"""Janus, DeepSeek-VL's successor, which can draw as well; what draws is not trained here."""

from typing import Any

from torch import nn

from mmdpo.models.families import Family


class Janus(Family):
    """Its processor names no image token; its tokenizer does."""

    def generate(self, model: nn.Module, **inputs: Any) -> Any:
        """Returns the answer's tokens; the class's own `generate` loses `logits_processor` where it writes text."""
        from transformers import GenerationMixin

        return GenerationMixin.generate(model, **inputs)


FAMILIES = (Janus(("janus",), shares_prefix=True),)
