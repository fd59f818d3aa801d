"""Each image is encoded once, and its features are handed to the model's own forward for every row that shows it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmdpo.models.devices import send

if TYPE_CHECKING:
    from mmdpo.models.families import Family

PIXELS, FEATURES = "pixel_values", "mm_encoder_outputs"
"""Arguments of a model's forward: pictures, and what its encoder made of them (transformers 5.18 and newer)."""


@contextmanager
def share_image_features(
    family: Family,
    model: nn.Module,
    image_inputs: dict[str, Tensor],
    tokens: Int[np.ndarray, "K"],
    contexts: Sequence[int],
    ids: Int[Tensor, "R S"],
    memo: dict[str, Any],
) -> Iterator[None]:
    """Within it, `model` encodes the images of K contexts once and hands row r those of `contexts[r]`.

    `tokens` counts the image placeholder tokens of each context; `image_inputs` is what the processor gave for the
    contexts, in order; `ids` are the rows' tokens on the host. `memo` keeps the encoder's output: a second model
    with the same frozen tower and projector that is given the same memo encodes nothing. All of it happens inside
    the forward of the module that reads the images, by transformers' argument `mm_encoder_outputs`: data-parallel
    wrappers see one ordinary forward.
    """
    owner = find_image_reader(model)
    taken = inspect.signature(owner.get_image_features).parameters
    own = {name: image_inputs[name] for name in taken if name in image_inputs}
    device = image_inputs[PIXELS].device
    part_of = family.locate_parts(model).part_of
    moves = any(p.requires_grad and part_of(name) != "language_model" for name, p in model.named_parameters())

    def hand_over(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "features" not in memo:
            # Frozen weights alone do not keep a tower out of the graph: PEFT lets embeddings require gradients.
            with torch.set_grad_enabled(moves and torch.is_grad_enabled()):
                output = owner.get_image_features(**own, **family.plan_encoder(owner, own, device), return_dict=True)
            # No model's forward reads what all layers of the encoder return: let go, for its size.
            kept = {name: output[name] for name in output if name not in ("hidden_states", "attentions")}
            memo["features"] = type(output)(**kept)
        features = memo["features"]
        # Llama 4 and Fuyu pool nothing, and read what their towers return; Granite 4 Vision reads layers alone.
        read = next((name for name in ("pooler_output", "last_hidden_state") if features.get(name) is not None), None)
        repeated = {} if read is None else {read: _repeat(features[read], tokens, contexts)}
        if (layers := features.get("deepstack_features")) is not None:
            repeated["deepstack_features"] = [_repeat(layer, tokens, contexts) for layer in layers]
        return args, {**kwargs, PIXELS: None, FEATURES: {"image": type(features)(**{**features, **repeated})}}

    handle = owner.register_forward_pre_hook(hand_over, with_kwargs=True)
    try:
        with _place_images_on_host(owner, ids):
            yield
    finally:
        handle.remove()


def find_image_reader(model: nn.Module) -> Any:
    """Returns the innermost module around the text decoder that encodes images and puts them among the text.

    What lies further out (PEFT, the class with the head) passes its arguments on to it; a vision tower may have a
    `get_image_features` of its own. Raises ValueError for a model without such a module.
    """
    decoder = model.get_decoder()  # type: ignore[operator]
    found = [
        module
        for module in model.modules()
        if callable(getattr(type(module), "get_image_features", None))
        and FEATURES in inspect.signature(type(module).forward).parameters
        and any(inner is decoder for inner in module.modules())
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} does not put image features among the text (get_image_features, and a forward "
            f"that takes {FEATURES}): models that read images through cross-attention are not supported"
        )
    return found[-1]


@contextmanager
def _place_images_on_host(owner: Any, ids: Int[Tensor, "R S"]) -> Iterator[None]:
    """Within it, a model works out on the host which tokens are images, and whether there are as many as features.

    Its own method compares a count of tokens that lie on the device, and the host would wait for it. The method is
    asked as it is, about the same rows on the host, with stand-ins that have the shapes of everything else.
    """
    original = getattr(owner, "get_placeholder_mask", None)
    if original is None or ids.device.type != "cpu":
        yield
        return

    signature = inspect.signature(original)

    def get_placeholder_mask(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments  # some models name all of them
        device = next(value.device for value in given.values() if isinstance(value, Tensor))
        # Of all else the shape alone is asked for: one number of memory stands in.
        asked: dict[str, Any] = {
            name: torch.zeros(1, dtype=value.dtype).expand(value.shape) if isinstance(value, Tensor) else value
            for name, value in given.items()
        } | {next(iter(given)): ids}
        found = original(**asked)
        return tuple(send(mask, device) for mask in found) if isinstance(found, tuple) else send(found, device)

    owner.get_placeholder_mask = get_placeholder_mask  # hides the method
    try:
        yield
    finally:
        del owner.get_placeholder_mask


def _repeat(features: Any, tokens: Int[np.ndarray, "K"], contexts: Sequence[int]) -> Any:
    """Repeats image features, in the order of contexts, for the context of every row.

    A tensor keeps its trailing shape (units ×) tokens × width; of a list, which every model concatenates, one is left.
    What is added to a layer of the text decoder has, in Granite 4 Vision, the layer's number before it.
    """
    if isinstance(features, tuple) and isinstance(features[0], int):
        return features[0], _repeat(features[1], tokens, contexts)
    if not isinstance(features, Tensor):
        return [_repeat(torch.cat([part.flatten(0, -2) for part in features]), tokens, contexts)]
    per_unit = 1 if features.dim() == 2 else features.shape[1]
    units = [count // per_unit for count in tokens.tolist()]
    if sum(units) != features.shape[0]:
        raise ValueError(
            f"the prompts hold {int(tokens.sum())} image tokens and the images gave {features.shape[0] * per_unit} "
            "features: the processor does not belong to the model"
        )
    ends = list(itertools.accumulate(units))
    index = torch.cat([torch.arange(ends[k] - units[k], ends[k]) for k in contexts])
    return features.index_select(0, send(index, features.device))
