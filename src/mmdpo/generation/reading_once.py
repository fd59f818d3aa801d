"""A prompt with several answers is read once: pictures are encoded once, and each answer has a copy of the cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer

from mmdpo.generation.questions import Question

ROOM = 64
"""Tokens that a copied cache has room for before it is copied again."""


def find_distinct(questions: Sequence[Question]) -> tuple[list[Question], list[int]]:
    """Returns the first of all questions that are read alike, and for each question the place of its like there."""
    places: dict[Hashable, int] = {}
    distinct: list[Question] = []
    rows = []
    for question in questions:
        place = places.setdefault(question.prompt_key, len(distinct))
        if place == len(distinct):
            distinct.append(question)
        rows.append(place)
    return distinct, rows


def generate_from_copies(
    generate: Callable[..., Any],
    model: Any,
    prompts: Mapping[str, Any],
    rows: Sequence[int],
    one_token: GenerationConfig,
    **options: Any,
) -> Any:
    """Returns what `generate` returns of the model with `options`, for rows that are the prompts at those places.

    `prompts` are left-padded inputs on the model's device; `one_token` generates one and returns all there is. All but
    the last token of each prompt is read by `generate` itself, which prepares positions and pictures as its family
    needs them. Raises ValueError where the model keeps no cache of just these tokens, and whatever a forward raises
    that cannot go on from copies.
    """
    shape = prompts["input_ids"].shape
    begun = {
        name: value[:, :-1] if isinstance(value, Tensor) and value.shape == shape else value
        for name, value in prompts.items()
    }
    read = generate(model, **begun, generation_config=one_token)
    name = "cache" if "cache" in read else "past_key_values"  # transformers before 5.24
    cache = read.get(name)
    if cache is None or cache.get_seq_length() != shape[1] - 1:
        raise ValueError("it keeps no cache of the prompt's tokens")
    places = torch.tensor(rows, device=prompts["input_ids"].device)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[number] = RoomyLayer(layer, places)
        else:
            layer.reorder_cache(places)
    for module in model.modules():  # Qwen-VL and its like keep there how far positions are from the count of tokens
        if isinstance(lag := getattr(module, "rope_deltas", None), Tensor):
            module.rope_deltas = lag[places]
    repeated = {key: prompts[key][places] for key in ("input_ids", "attention_mask")}
    return generate(model, **repeated, **{name: cache}, **options)


class RoomyLayer(DynamicLayer):
    """A copied layer of a cache that has room after its tokens.

    transformers' own copies all tokens anew for each further one. Where answers are short and many go on from long
    prompts, most of the time would go there.
    """

    _layer_type = None  # else transformers may take it for all caches

    def __init__(self, layer: DynamicLayer, places: Int[Tensor, "B"]) -> None:
        """Copies the rows at these places."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self.keys, self.values = layer.keys[places], layer.values[places]
        self._room = [self.keys, self.values]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes states after those that are there, and returns all."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        for part, states in enumerate((key_states, value_states)):
            room = self._room[part]
            if end > room.shape[-2]:
                wider = room.new_empty(*room.shape[:-2], end + ROOM, room.shape[-1])
                wider[..., :start, :] = room[..., :start, :]
                room = self._room[part] = wider
            room[..., start:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values
