"""From prepared examples to a `Batch`: pixels processed, prompts and answers padded.

A *context* is a prompt under one version of the images; a batch of B examples holds K = V · B of them, version by
version, and the answers response by response. Which context meets which answer is the scorer's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from mmdpo.corruption import derive_corruption_generator
from mmdpo.corruption._geometry import crop_processed
from mmdpo.data.items import Item
from mmdpo.data.pixels import LEVELS, look_up, process
from mmdpo.data.prepare import Context, Opened, PreparedExample, Preparer
from mmdpo.data.sharing import find_beginnings, find_first, leave_out_repeats
from mmdpo.data.tokenise import each_text_once
from mmdpo.models.image_features import PIXELS
from mmdpo.records import CORRUPTED, RowError, image_versions, response_names

_LARGEST = torch.finfo(torch.float32).max


class Batch(TypedDict):
    """A batch of B examples: K = V · B contexts and A · B answers, both padded on the right.

    What a step is planned from are arrays, which stay on the host when tensors are moved to a device: nothing has to be
    read back from there.
    """

    index: Int[Tensor, "B"]
    """Place of each example in its dataset, from 0. It comes first: Trainer takes the first tensor's length for B."""
    prompt_ids: Int[np.ndarray, "K P"]
    """Image placeholders expanded by the processor."""
    prompt_mask: Bool[np.ndarray, "K P"]
    begins_as: list[tuple[int, int]]
    """Of each context an earlier one with the same images, and how many tokens both begin with; 0 for none."""
    token_types: dict[str, Int[np.ndarray, "K P"]]
    """What else the processor says of each token: `token_type_ids`, `mm_token_type_ids`."""
    answer_ids: Int[np.ndarray, "A·B L"]
    answer_mask: Bool[np.ndarray, "A·B L"]
    image_inputs: dict[str, Tensor]
    """What the processor gives for the images of all contexts that have any of their own, in order: pixels, masks.

    Pixels may be levels of 8 bits; `data.pixels.look_up` gives their values."""
    image_sizes: dict[str, Int[np.ndarray, "..."]]
    """What it says of their sizes, in the same order: `image_sizes`, `image_grid_thw`, numbers of tiles."""
    image_counts: Int[np.ndarray, "K"]
    """Images of each context's own: none where it shows those of another."""
    images_of: list[int]
    """The context whose images each context shows: an earlier one with the same, or itself."""
    answers_as: list[int]
    """The first answer with the same tokens as each, which may be itself."""
    weights: dict[str, Float[Tensor, "B"]]
    """Per-example weights that terms name."""
    has_images: Bool[Tensor, "B"]
    """Whether each example has an image of its own."""
    counts: Bool[Tensor, "B"]
    """False for padding rows, which have no part in losses and metrics."""
    ref_logprobs: Float[Tensor, "B C"] | None
    """Cached reference log-probabilities, one column per cached cell."""


def require_batch(made: Any) -> None:
    """Raises TypeError where what the caller's `data_collator` returned is no batch; says what it lacks."""
    wanted = "it is given items of train_dataset, and returns an mmdpo.data.collate.Batch, as the trainer's own does"
    if not isinstance(made, Mapping):
        raise TypeError(f"the data_collator returned {type(made).__name__}: {wanted}")
    if lacking := [name for name in Batch.__annotations__ if name not in made]:
        raise TypeError(f"the data_collator returned a batch without {', '.join(lacking)}: {wanted}")


@dataclass(frozen=True)
class Prompts:
    """The contexts of a batch after the processor, unpadded."""

    ids: list[list[int]]
    types: dict[str, list[list[int]]]
    image_inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Collator:
    """Makes batches that hold what the cells need and nothing else. Raises RowError, naming the row, for bad ones."""

    prepare: Preparer
    max_length: int | None = None
    """Longest row in tokens, image tokens included; longer answers are cut at their end."""
    weight_columns: tuple[str, ...] = ()
    context_length: int | None = None
    """Tokens that the model can read in one sequence."""
    beta_columns: tuple[str, ...] = ()
    """Weight columns that multiply β, which has to stay positive."""

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Returns the batch of the items."""
        opened = Opened()
        return self.collate([self.prepare(item, opened) for item in items])

    def collate(self, examples: Sequence[PreparedExample]) -> Batch:
        """Returns the batch of prepared examples."""
        versions, responses = image_versions(self.prepare.cells), response_names(self.prepare.cells)
        contexts = [example.contexts[version] for version in versions for example in examples]
        prompts = self._process(contexts)
        # Cropped after the processor, the pixels of two contexts differ though the picture is the same.
        is_cropped = self.prepare.crop_space == "processed"
        image_inputs, images_of = prompts.image_inputs, list(range(len(contexts)))
        if is_cropped and image_inputs:
            image_inputs = look_up(image_inputs)
            self._crop_processed(image_inputs[PIXELS], examples)
        room = [self._room(example, prompts.ids[place :: len(examples)]) for place, example in enumerate(examples)]
        cut = [
            {name: example.answers[name][:longest] for name in responses}
            for example, longest in zip(examples, room, strict=True)
        ]
        for place, (example, its_answers) in enumerate(zip(examples, cut, strict=True)):
            self._check_differences(example, its_answers)
            self._check_context(example, prompts.ids[place :: len(examples)], its_answers)
        prompt_ids, prompt_mask = _pad(prompts.ids)
        answers = [its_answers[name] for name in responses for its_answers in cut]
        answer_ids, answer_mask = _pad(answers)
        family = self.prepare.renderer.family
        image_token = family.image_token_id(self.prepare.renderer.processor)
        if not is_cropped:
            image_inputs, images_of = leave_out_repeats(contexts, prompts.ids, image_inputs, image_token)
        items = [example.item for example in examples]
        references = [item.ref_logprobs for item in items if item.ref_logprobs is not None]
        return Batch(
            index=torch.tensor([item.index for item in items]),
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            token_types={name: _pad(rows)[0] for name, rows in prompts.types.items()},
            begins_as=find_beginnings(contexts, prompts.ids, family, image_token, is_cropped=is_cropped),
            image_inputs={name: v for name, v in image_inputs.items() if not _is_size(name, v)},
            image_sizes={name: v.numpy() for name, v in image_inputs.items() if _is_size(name, v)},
            image_counts=np.array([len(context.images) * (k == images_of[k]) for k, context in enumerate(contexts)]),
            images_of=images_of,
            answer_ids=answer_ids,
            answer_mask=answer_mask,
            answers_as=find_first(map(tuple, answers)),
            weights={name: self._weights(items, name) for name in self.weight_columns},
            has_images=torch.tensor([bool(item.example.images) for item in items]),
            counts=torch.tensor([item.counts for item in items]),
            ref_logprobs=torch.stack(references) if references else None,
        )

    def _process(self, contexts: list[Context]) -> Prompts:
        """Runs the model's processor over the contexts with images, and its tokenizer over those without."""
        renderer = self.prepare.renderer
        # Types that answers have are given to prompts also where no context has an image.
        types = {name: [list[int]() for _ in contexts] for name in renderer.family.answer_token_types}
        prompts = Prompts(ids=[[] for _ in contexts], types=types, image_inputs={})
        seeing = [k for k, context in enumerate(contexts) if context.images]
        if seeing:
            with each_text_once(renderer.processor):
                output = process(
                    renderer.processor,
                    text=[contexts[k].text for k in seeing],
                    images=[list(contexts[k].images) for k in seeing],
                    padding=True,
                    padding_side="right",
                    add_special_tokens=False,
                )
            output.pop("labels", None)  # PaliGemma's, for another use
            mask = output.pop("attention_mask").bool()
            for name, tensor in output.items():
                if name == LEVELS or tensor.shape != mask.shape:
                    prompts.image_inputs[name] = tensor
                    continue
                is_ids = name == "input_ids"
                rows = prompts.ids if is_ids else prompts.types.setdefault(name, [[] for _ in contexts])
                for k, row, real in zip(seeing, tensor, mask, strict=True):
                    opening = renderer.opening_ids(contexts[k].text)
                    rows[k] = (opening if is_ids else [0] * len(opening)) + row[real].tolist()
        for k in set(range(len(contexts))).difference(seeing):
            prompts.ids[k] = renderer.prompt_ids(contexts[k].text)
            for rows in prompts.types.values():
                rows[k] = [0] * len(prompts.ids[k])
        return prompts

    def _check_differences(self, example: PreparedExample, answers: dict[str, list[int]]) -> None:
        """Raises RowError where two cells that are compared have the same pixels and the same tokens."""
        for preferred, other in self.prepare.list_comparisons(example.item.example):
            names = preferred.response, other.response
            if answers[names[0]] != answers[names[1]] or not self._are_alike(example, preferred.image, other.image):
                continue
            were_cut = any(answers[name] != example.answers[name] for name in names)
            if names[0] == names[1] and self._spares_all_images(example.item):
                problem = (
                    "corrupted_images: demonstrations leaves the last image of a row as it is, and the row has no "
                    f"other one, so that `{names[0]}` is compared with itself: add demonstrations, remove the row, or "
                    "set corrupted_images: all"
                )
            elif names[0] == names[1]:
                problem = (
                    f"the images {preferred.image} and {other.image} are the same pixels, and `{names[0]}` is compared "
                    "under both: take another corruption, or remove the row"
                )
            else:
                problem = f"{names[0]} and {names[1]} are the same tokens, " + (
                    "once cut to max_length; raise it" if were_cut else "though not the same text; remove the row"
                )
            raise RowError(problem, source=example.item.example.source)

    def _spares_all_images(self, item: Item) -> bool:
        """Returns whether a row has no corrupted images of its own, and corruptions are aimed at none of its images."""
        example = item.example
        return not example.rejected_images and not any(
            self.prepare.is_aimed_at(example, place) for place in range(len(example.images))
        )

    def _are_alike(self, example: PreparedExample, one: str, other: str) -> bool:
        """Returns whether two versions of a row's images are the same pixels."""
        if one == other:
            return True
        own = [self.prepare.find_images(example.item.example, version) for version in (one, other)]
        if self.prepare.crop_space == "processed" and None in own:
            return False  # the crop comes after the image processor
        if any(self.prepare.corruptions[v].needs_other_image for v in (one, other) if v in self.prepare.corruptions):
            return False  # drawn among pictures that differ; a check shows the row's own in its place
        pairs = [example.contexts[version].images for version in (one, other)]
        return len(pairs[0]) == len(pairs[1]) and all(
            a is b or (a.size == b.size and _share_pixels(a, b)) for a, b in zip(*pairs, strict=True)
        )

    def _room(self, example: PreparedExample, prompts: list[list[int]]) -> int | None:
        """Returns how many tokens an answer may have after the longest context of its example."""
        longest = max(prompts, key=len)
        if self.max_length is None or len(longest) < self.max_length:
            return None if self.max_length is None else self.max_length - len(longest)
        renderer = self.prepare.renderer
        image_id = renderer.family.image_token_id(renderer.processor)
        images = longest.count(image_id) if image_id is not None else 0
        cut = longest[self.max_length :].count(image_id) if image_id is not None else 0
        what = f"{cut} image tokens would be truncated" if cut else "the answer would be cut to zero tokens"
        raise RowError(
            f"the prompt has {len(longest)} tokens, {images} of them for images, and max_length is "
            f"{self.max_length}: {what}; raise max_length or shorten the prompt",
            source=example.item.example.source,
        )

    def _check_context(self, example: PreparedExample, prompts: list[list[int]], answers: dict[str, list[int]]) -> None:
        longest = max(map(len, prompts)) + max(map(len, answers.values()))
        if self.context_length is not None and longest > self.context_length:
            raise RowError(
                f"prompt and answer have {longest} tokens and the model reads {self.context_length}: set max_length to "
                f"{self.context_length} or less, which cuts answers at their end, or shorten the row",
                source=example.item.example.source,
            )

    def _crop_processed(self, pixels: Float[Tensor, "..."], examples: Sequence[PreparedExample]) -> None:
        """Crops pixels in place, after the processor instead of before it, as the released mDPO code does."""
        versions = image_versions(self.prepare.cells)
        places = [
            (example.item, version, k)
            for version in versions
            for example in examples
            for k in range(len(example.contexts[version].images))
        ]
        _check_croppable(pixels, len(places))
        for place, (item, version, k) in enumerate(places):
            is_given = self.prepare.find_images(item.example, version) is not None
            if version != CORRUPTED or is_given or not self.prepare.is_aimed_at(item.example, k):
                continue
            corruption = self.prepare.corruptions[version]
            generator = derive_corruption_generator(
                corruption.name,
                run_seed=self.prepare.seed,
                example_id=self.prepare.name_draw(item.example, k),
                image_index=k,
                epoch=item.epoch,
            )
            low, high = corruption.options["low"], corruption.options["high"]
            pixels[place] = crop_processed(pixels[place], generator, low, high)

    def _weights(self, items: Sequence[Item], name: str) -> Float[Tensor, "B"]:
        for item in items:
            if name not in item.example.weights:
                known = ", ".join(item.example.weights) or "none"
                raise RowError(
                    f"the objective weighs examples by the numeric column {name!r}; the row has {known}",
                    source=item.example.source,
                )
            weight = item.example.weights[name]
            if not 0 <= weight <= _LARGEST or (name in self.beta_columns and not weight):
                above = "what multiplies β is above 0" if name in self.beta_columns else "weights are at least 0"
                raise RowError(
                    f"the weight in the column {name!r} is {weight}: {above}, and finite", source=item.example.source
                )
        return torch.tensor([float(item.example.weights[name]) for item in items])


def check_cropping(image_processor: Any) -> None:
    """Raises ValueError for an image processor whose pixels `crop_space: processed` cannot crop, picture by picture."""
    picture = Image.new("RGB", (96, 64))
    _check_croppable(image_processor(images=[picture], return_tensors="pt")[PIXELS], 1)


def _check_croppable(pixels: Any, count: int) -> None:
    if not isinstance(pixels, Tensor) or pixels.dim() != 4 or len(pixels) != count:
        shape = tuple(getattr(pixels, "shape", (len(pixels),)))
        raise ValueError(
            "crop_space: processed needs an image processor that gives [images, 3, height, width], as LLaVA's and "
            f"Bunny's do; this one gives {shape} for {count} images. Use crop_space: image"
        )


def _share_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Returns whether two pictures of one size are the same; those that are not mostly differ in their middle line."""
    middle = (0, one.height // 2, one.width, one.height // 2 + 1)
    return one.crop(middle).tobytes() == other.crop(middle).tobytes() and one.tobytes() == other.tobytes()


def _is_size(name: str, values: Tensor) -> bool:
    """Says whether what a processor gives for images is their sizes, and neither pixels nor a mask of them."""
    return not values.is_floating_point() and not name.startswith("pixel_")


def _pad(rows: list[list[int]]) -> tuple[Int[np.ndarray, "n w"], Bool[np.ndarray, "n w"]]:
    """Pads on the right; the mask, never the value, says what is real."""
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=bool)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = True
    return ids, mask
