"""What the contexts of a batch have in common: the same images, which are encoded once, and the same beginning."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from mmdpo.data.pixels import LEVELS
from mmdpo.data.prepare import Context
from mmdpo.models.families import Family
from mmdpo.records import CORRUPTED

WORTH_JOINING = 16
"""Tokens that prompts without images have in common to be read together: to join fewer costs more than it saves."""


def find_first(keys: Iterable[Hashable]) -> list[int]:
    """Returns the place of the first key that is equal to each."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, place) for place, key in enumerate(keys)]


def leave_out_repeats(
    contexts: Sequence[Context], prompts: list[list[int]], image_inputs: dict[str, Tensor], image_token: int | None
) -> tuple[dict[str, Tensor], list[int]]:
    """Returns the image inputs without those of contexts that show the images of an earlier one, and which one that is.

    Where it cannot be said which entries of an input belong to a context, nothing is left out: the images are then
    encoded for each context.
    """
    own = list(range(len(contexts)))
    images_of = find_first(tuple(map(id, context.images)) or k for k, context in enumerate(contexts))
    if images_of == own:
        return image_inputs, own
    kept = {}
    for name, tensor in image_inputs.items():
        if name == LEVELS:
            kept[name] = tensor
            continue
        sizes = _share_out(len(tensor), contexts, prompts, image_token)
        if sizes is None:
            return image_inputs, own
        parts = torch.split(tensor, sizes)
        kept[name] = torch.cat([part for k, part in enumerate(parts) if images_of[k] == k])
    return kept, images_of


def _share_out(
    entries: int, contexts: Sequence[Context], prompts: list[list[int]], image_token: int | None
) -> list[int] | None:
    """Returns how many of an input's entries each context has: one for each image, for each context, or for so many
    of its image tokens; None where it is none of these."""
    images = [len(context.images) for context in contexts]
    if entries == sum(images):
        return images
    if entries == sum(map(bool, images)):
        return [int(bool(count)) for count in images]
    tokens = [ids.count(image_token) for ids in prompts] if image_token is not None else [0]
    if not sum(tokens) or any(entries * count % sum(tokens) for count in tokens):
        return None
    return [entries * count // sum(tokens) for count in tokens]


def find_beginnings(
    contexts: Sequence[Context],
    prompts: list[list[int]],
    family: Family,
    image_token: int | None,
    *,
    is_cropped: bool = False,
) -> list[tuple[int, int]]:
    """Returns for each context the earlier one with which it has most tokens in common, and their number.

    Both have the same images, all of them among these tokens. A prompt that is read in both directions has tokens
    in common with an equal one alone; so it is with families of which the contrary was not proven. `is_cropped`: the
    corrupted pictures are cropped after the processor, so that their pixels differ though the picture is the same.
    """
    forks = family.shares_prefix and not family.both_directions and image_token is not None
    shown = [
        (k,) if is_cropped and context.version == CORRUPTED else tuple(map(id, context.images))
        for k, context in enumerate(contexts)
    ]
    found = list[tuple[int, int]]()
    for k, ids in enumerate(prompts):
        best = (k, 0)
        for earlier in range(k):
            if shown[earlier] != shown[k]:
                continue
            alike = _count_alike(prompts[earlier], ids)
            is_equal = alike == len(ids) == len(prompts[earlier])
            is_worth_it = alike >= WORTH_JOINING if not contexts[k].images else image_token not in ids[alike:]
            if (is_equal or (forks and is_worth_it)) and alike > best[1]:
                best = (earlier, alike)
        found.append(best)
    return found


def _count_alike(one: list[int], other: list[int]) -> int:
    """Returns how many tokens two texts begin with."""
    shortest = min(len(one), len(other))
    return next((n for n in range(shortest) if one[n] != other[n]), shortest)
