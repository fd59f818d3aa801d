"""A picture becomes pixel values in few passes: the numbers of transformers' own image processors, to the bit.

transformers' processors for Pillow take a picture from step to step in arrays of their own, in float64 between them.
The steps are the same here, but
- what a centre crop would throw away is not resized, where Pillow computes the kept part alone to the same bits;
- a batch holds the levels of 8 bits as they are, a quarter of the bytes that workers hand over and a GPU is sent, and
  beside them what the processor's own methods make of each of the 256: they are looked up where a model reads them.
Processors with steps of their own (tiles, padding to a square), and those for torchvision, keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension

from mmdpo.models.image_features import PIXELS
from mmdpo.models.seams import PREPROCESS

STEPS = (PREPROCESS, "process_image", "resize", "center_crop", "rescale", "normalize", "pad")
"""Methods of an image processor; one that has another of them than its base class is left alone."""

LEVELS = "pixel_levels"
"""Beside `pixel_values` that are levels of 8 bits: what each level of each channel is to the model, [3, 256]."""


class Levels(NamedTuple):
    """Pictures of which nothing but their values is left to look up."""

    pixels: UInt8[Tensor, "n 3 H W"]
    values: Float[Tensor, "3 256"]


def process(processor: Any, **arguments: Any) -> BatchFeature:
    """Returns what a model's processor makes of texts and RGB pictures, as tensors.

    Where its image processor has the usual steps, `pixel_values` are levels and LEVELS stands beside them: `look_up`
    gives the values. Where the processor does anything with pixels itself, they are values.
    """
    arguments["return_tensors"] = "pt"
    with _few_passes(processor.image_processor) as made:
        output: BatchFeature = processor(**arguments)
    if not made:
        return output
    if len(made) == 1 and output.get(PIXELS) is made[0].pixels:
        output[LEVELS] = made[0].values
        return output
    untouched: BatchFeature = processor(**arguments)
    return untouched


def look_up(image_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns image inputs as a model reads them: values in the place of levels, on the device of both."""
    inputs = dict(image_inputs)
    levels = inputs.pop(LEVELS, None)
    if levels is not None:
        pixels = inputs[PIXELS]
        first = 256 * torch.arange(len(levels), dtype=torch.int32, device=pixels.device)  # of each channel
        places = pixels.int() + first[:, None, None]
        inputs[PIXELS] = levels.flatten().index_select(0, places.flatten()).view(pixels.shape)
    return inputs


@contextmanager
def _few_passes(image_processor: Any) -> Iterator[list[Levels]]:
    """Within it, an image processor whose steps are the usual ones takes RGB pictures through them in few passes.

    Gives the list of what it made as levels.
    """
    made: list[Levels] = []
    kind, own = type(image_processor), vars(image_processor)
    is_usual = isinstance(image_processor, PilBackend) and not any(
        name in own or getattr(kind, name) is not getattr(PilBackend, name) for name in STEPS
    )
    # Attributes of the instance hide the methods. An array, which the first makes, would be turned back to resize it.
    hiding = {
        "process_image": lambda image, *_, **__: image,
        PREPROCESS: partial(_take_through_steps, image_processor, made),
    }
    own.update(hiding if is_usual else {})
    try:
        yield made
    finally:
        for name in hiding if is_usual else ():
            del own[name]


def _take_through_steps(processor: Any, made: list[Levels], images: list[Image.Image], **options: Any) -> BatchFeature:
    """Returns what the processor's own method returns, or levels, which it adds to `made`.

    `options` are those that the method gets.
    """
    distinct = {id(image): image for image in images}  # a picture that several rows show is resized once
    if options["do_resize"]:
        distinct = {name: _resize(processor, image, options) for name, image in distinct.items()}
    arrays = [_as_array(distinct[id(image)]) for image in images]
    if options["do_center_crop"]:  # a second time, it changes nothing
        arrays = [processor.center_crop(array, options["crop_size"]) for array in arrays]
    has_values = options["do_pad"] or not options["do_rescale"] or options["return_tensors"] != "pt"
    if has_values or len({array.shape for array in arrays}) > 1:
        later = {**options, "do_resize": False, "do_center_crop": False}
        result: BatchFeature = getattr(PilBackend, PREPROCESS)(processor, arrays, **later)
        return result
    made.append(Levels(torch.from_numpy(np.stack(arrays)), torch.from_numpy(_list_levels(processor, options))))
    return BatchFeature(data={PIXELS: made[-1].pixels})


def _list_levels(processor: Any, options: dict[str, Any]) -> Float[np.ndarray, "3 256"]:
    """Returns what the processor makes of each level of each channel."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    levels: Float[np.ndarray, "3 1 256"] = processor.rescale(ramp, options["rescale_factor"])
    if options["do_normalize"]:
        levels = processor.normalize(levels, options["image_mean"], options["image_std"])
    return np.ascontiguousarray(levels[:, 0])


def _resize(processor: Any, image: Image.Image, options: dict[str, Any]) -> Image.Image:
    """Returns a picture resized; no more of it than its centre, where that is all that is kept."""
    size, resample = options["size"], options["resample"]
    wanted = find_size(size, image.height, image.width)
    if wanted is None or not isinstance(resample, int):
        array = processor.resize(image=_as_array(image), size=size, resample=resample)
        return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
    box = None
    if options["do_center_crop"]:
        kept = int(options["crop_size"]["height"]), int(options["crop_size"]["width"])
        box = find_window((image.height, image.width), wanted, kept, int(resample))
    height, width = wanted if box is None else kept
    return image.resize((width, height), resample, box=box)


def find_size(size: Any, height: int, width: int) -> tuple[int, int] | None:
    """Returns the (height, width) that a picture is resized to, None where the rule is another than the usual two."""
    named = {name for name, value in vars(size).items() if value}
    if named == {"height", "width"}:
        return size.height, size.width
    if named != {"shortest_edge"}:
        return None
    blank = np.broadcast_to(np.uint8(0), (3, height, width))
    resized = get_resize_output_image_size(
        blank, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
    )
    return int(resized[0]), int(resized[1])


@lru_cache(maxsize=1024)
def find_window(
    size: tuple[int, int], resized: tuple[int, int], kept: tuple[int, int], resample: int
) -> tuple[float, float, float, float] | None:
    """Returns the box (left, top, right, bottom) that the middle `kept` pixels of a resized picture come from.

    Sizes are (height, width) in pixels. None where nothing would be left out or the crop would pad, and where Pillow
    would compute other bits: because it rounds places otherwise, or takes rows and columns in another order. The last
    is seen on noise, once for each shape.
    """
    rows, columns = (_cut(*lengths) for lengths in zip(size, resized, kept, strict=True))
    if rows is None or columns is None or kept == resized:
        return None
    box = (columns[0], rows[0], columns[1], rows[1])
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture, (height, width) = Image.fromarray(noise), kept
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    whole = np.asarray(picture.resize((resized[1], resized[0]), resample))[top : top + height, left : left + width]
    alone = np.asarray(picture.resize((width, height), resample, box=box))
    return box if np.array_equal(alone, whole) else None


def _cut(length: int, resized: int, kept: int) -> tuple[float, float] | None:
    """Returns where in `length` pixels the middle `kept` of `resized` pixels begin and end.

    None unless Pillow computes them as among all `resized`: it takes begin and end in float32, and derives the step and
    the place of every pixel from them, which have to be those of the whole.
    """
    first = (resized - kept) // 2
    if not 0 <= first < first + kept <= resized:
        return None
    edges = (first, first + kept)
    begin, end = (edge * length / resized for edge in edges)
    is_exact = (begin * resized, end * resized) == (edges[0] * length, edges[1] * length)
    fits = all(float(np.float32(value)) == value for value in (begin, end, end - begin))
    return (begin, end) if is_exact and fits and (end - begin) / kept == length / resized else None


def _as_array(image: Image.Image) -> UInt8[np.ndarray, "3 H W"]:
    return np.moveaxis(np.asarray(image), -1, 0)
