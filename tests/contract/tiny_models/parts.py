"""What the tiny models are made of: the record, sizes, weights, and processors without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from transformers import ProcessorMixin


@dataclass(frozen=True)
class TinyModel:
    """One model with what the contract has to know of its family, written down independently of the package."""

    model: Any
    processor: Any
    placeholder: str
    """What stands for one image in text that the processor is given."""
    end_of_turn: str
    """What ends an answer."""
    bos: str | None = None
    """What stands exactly once in every prompt, whether template, tokenizer or processor writes it."""
    projector: tuple[str, ...] = ("multi_modal_projector",)
    """What the paths of the parameters between vision tower and language model hold."""


def models(*builders: Callable[[], TinyModel]) -> dict[str, Callable[[], TinyModel]]:
    """Returns builders by name; each builds its model once, from a seed."""

    def seeded(build: Callable[[], TinyModel]) -> Callable[[], TinyModel]:
        @cache
        def make() -> TinyModel:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made = build()
                _spread(made.model)
            made.model.eval()
            return made

        return make

    return {build.__name__: seeded(build) for build in builders}


def _spread(model: Any) -> None:
    """Makes weights large enough that a wrong position or mask shows, and norms and biases other than one and zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    attention_dropout=0.0,
)
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16)


def text_config(config: type, tokenizer: Any, **options: Any) -> Any:
    """Returns the configuration of a language model for the tokens of a tokenizer."""
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    return config(**{**TEXT, **ids, "vocab_size": len(tokenizer), "tie_word_embeddings": False, **options})


def image_processor(name: str, **options: Any) -> Any:
    """Returns an image processor of transformers that needs no torchvision, `clip.CLIPImageProcessor` for instance."""
    folder, kind = name.split(".")
    return getattr(import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), f"{kind}Pil")(
        **options
    )


def without_video(processor_class: type, *args: Any, **kwargs: Any) -> Any:
    """Builds a processor whose video processor is None, where transformers insists on one that needs torchvision."""
    with patch.object(ProcessorMixin, "check_argument_for_proper_class"):
        return processor_class(*args, video_processor=None, **kwargs)


def token_id(tokenizer: Any, token: str) -> int:
    """Returns the number of a token."""
    return int(tokenizer.convert_tokens_to_ids(token))
