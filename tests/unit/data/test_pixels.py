"""Pixel values in few passes are those of the processors as they are, to the bit, and fewer pixels are computed."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmdpo.data import pixels
from mmdpo.data.pixels import LEVELS, find_size, find_window, look_up
from mmdpo.models import seams

SIZES = [
    (640, 480),
    (480, 640),
    (640, 427),
    (500, 375),
    (333, 500),
    (336, 336),
    (97, 301),
    (2048, 300),
    (40, 60),
    (7, 3),
]
LLAVA = dict(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def process(processor, *images):
    return processor(list(images), return_tensors="pt")["pixel_values"]


class Whole:
    """A model's processor of pictures alone, whose `change` is what it does to their values."""

    def __init__(self, image_processor, change=lambda output: output):
        self.image_processor, self.change, self.calls = image_processor, change, 0

    def __call__(self, images, **options):
        self.calls += 1
        return self.change(self.image_processor(images, **options))


def in_few_passes(processor, *images):
    return pixels.process(Whole(processor), images=list(images))


def assert_same(processor, *images, as_levels=True):
    expected, output = process(processor, *images), in_few_passes(processor, *images)
    assert (LEVELS in output) == as_levels
    found = look_up(output)["pixel_values"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert found.is_contiguous()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_of_any_shape_has_the_same_values(size):
    assert_same(CLIPImageProcessorPil(**LLAVA), noise(*size))


@pytest.mark.parametrize(
    "options",
    [
        dict(do_center_crop=False, size={"height": 30, "width": 50}),
        dict(do_resize=False),
        dict(do_rescale=False),
        dict(do_normalize=False),
        dict(do_rescale=False, do_normalize=False),
        dict(crop_size={"height": 350, "width": 300}),
        dict(size={"shortest_edge": 100}),
        dict(resample=Image.Resampling.BILINEAR),
        dict(resample=Image.Resampling.LANCZOS),
        dict(resample=Image.Resampling.NEAREST),
        dict(rescale_factor=1 / 127.5, image_mean=[1.0, 0.9, 0.5], image_std=[0.3, 1.0, 2.0]),
        dict(size={"shortest_edge": 50, "longest_edge": 60}),
        dict(do_pad=True, pad_size={"height": 400, "width": 400}),
    ],
    ids=str,
)
def test_any_options_give_the_same_values(options):
    as_levels = not options.get("do_pad") and options.get("do_rescale", True)
    assert_same(CLIPImageProcessorPil(**(LLAVA | options)), noise(64, 48), noise(64, 48, seed=1), as_levels=as_levels)


@pytest.mark.parametrize(
    "change",
    [
        lambda output: {"pixel_values": output["pixel_values"][:, None].expand(-1, 2, -1, -1, -1)},
        lambda output: {"pixel_values": output["pixel_values"] * 2.0},
        lambda output: {"pixels": output["pixel_values"]},
    ],
    ids=["another shape", "other values", "another name"],
)
def test_a_processor_that_does_anything_with_pixels_has_values(change):
    whole = Whole(CLIPImageProcessorPil(**LLAVA), change)
    expected = whole([noise(30, 40)], return_tensors="pt")
    found = pixels.process(whole, images=[noise(30, 40)])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["pt", None])
def test_a_processor_that_asks_twice_has_the_values_of_both(kind):
    once, again = CLIPImageProcessorPil(**LLAVA), dict(do_normalize=False, return_tensors=kind)
    whole = Whole(once, lambda output: {**output, "small": once([noise(30, 40)], **again)["pixel_values"][0]})
    found = look_up(pixels.process(whole, images=[noise(30, 40)]))
    assert torch.equal(found["pixel_values"], process(once, noise(30, 40)))
    assert np.array_equal(found["small"], once([noise(30, 40)], **again)["pixel_values"][0])


def test_what_has_no_levels_is_looked_up_as_it_is():
    inputs = {"pixel_values": torch.ones(1, 3, 2, 2), "mask": torch.ones(1)}
    assert look_up(inputs) == inputs


def test_a_batch_holds_a_quarter_of_the_bytes():
    processor = CLIPImageProcessorPil(**LLAVA)
    output, values = in_few_passes(processor, noise(64, 48)), process(processor, noise(64, 48))
    assert 4 * output["pixel_values"].nbytes == values.nbytes
    assert output[LEVELS].shape == (3, 256)


@pytest.mark.parametrize("make", [SiglipImageProcessorPil, LlavaImageProcessorPil], ids=lambda kind: kind.__name__)
def test_processors_of_other_models_give_the_same_values(make):
    processor = make(size={"height": 48, "width": 48}, do_center_crop=False)
    # LLaVA's own pads to a square.
    assert_same(processor, noise(60, 40), noise(33, 70), as_levels=make is SiglipImageProcessorPil)


def test_pictures_that_stay_of_different_shapes_stay_a_list():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, do_center_crop=False)
    images = [noise(60, 40), noise(40, 60)]
    expected = processor(images, return_tensors=None)["pixel_values"]
    whole = Whole(processor)
    with pixels._few_passes(processor):
        found = whole(images, return_tensors=None)["pixel_values"]
    assert [each.shape for each in found] == [(3, 20, 30), (3, 30, 20)]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


BICUBIC = Image.Resampling.BICUBIC


def test_a_window_is_computed_as_the_whole_is():
    """On a photograph's kind of picture, where the choice was made on noise."""
    found = 0
    for width, height in itertools.product(range(40, 700, 30), range(45, 700, 60)):
        short = min(width, height)
        resized = (84 * height // short, 84 * width // short)
        box = find_window((height, width), resized, (84, 84), BICUBIC)
        if box is None:
            continue
        found += 1
        picture = noise(12, 9, seed=width).resize((width, height), BICUBIC)
        top, left = (resized[0] - 84) // 2, (resized[1] - 84) // 2
        whole = picture.resize((resized[1], resized[0]), BICUBIC).crop((left, top, left + 84, top + 84))
        assert np.array_equal(np.asarray(picture.resize((84, 84), BICUBIC, box=box)), np.asarray(whole)), (
            width,
            height,
        )
    assert found > 20


def test_only_what_is_exact_is_computed_alone():
    kept = (336, 336)
    assert find_window((480, 640), (336, 448), kept, BICUBIC) == (80.0, 0.0, 560.0, 480.0)
    assert find_window((375, 500), (336, 448), kept, BICUBIC) == (62.5, 0.0, 437.5, 375.0)
    assert find_window((427, 640), (336, 503), kept, BICUBIC) is None, "503 is prime: no place is one of float32"
    assert find_window((480, 640), (300, 400), kept, BICUBIC) is None, "the crop pads"
    assert find_window((480, 480), (336, 336), kept, BICUBIC) is None, "nothing is left out"


def test_less_is_resized_than_the_processor_would(monkeypatch):
    sizes, resize = [], Image.Image.resize

    def count(picture, size, *args, **kwargs):
        sizes.append(size)
        return resize(picture, size, *args, **kwargs)

    find_window((480, 640), (336, 448), (336, 336), BICUBIC)  # tried on noise, once for each shape
    monkeypatch.setattr(Image.Image, "resize", count)
    processor = CLIPImageProcessorPil(**LLAVA)
    process(processor, noise(640, 480))
    in_few_passes(processor, noise(640, 480))
    assert sizes == [(448, 336), (336, 336)]


def test_the_processor_is_as_before_and_one_with_steps_of_its_own_is_left_alone():
    class Own(CLIPImageProcessorPil):
        def rescale(self, image, scale, **options):
            return super().rescale(image, scale, **options) + 1

    for processor in (CLIPImageProcessorPil(**LLAVA), Own(**LLAVA)):
        before, saved = dict(vars(processor)), processor.to_json_string()
        assert_same(processor, noise(50, 60), as_levels=type(processor) is not Own)
        assert vars(processor) == before
        assert processor.to_json_string() == saved


def test_the_method_that_takes_pictures_through_the_steps_is_there():
    assert callable(getattr(PilBackend, seams.PREPROCESS))


def test_sizes_are_those_of_the_processor():
    for width, height in SIZES:
        processor = CLIPImageProcessorPil(size={"shortest_edge": 50}, do_center_crop=False)
        size = process(processor, noise(width, height)).shape[-2:]
        assert in_few_passes(processor, noise(width, height))["pixel_values"].shape[-2:] == size
    assert find_size(type("Size", (), {})(), 3, 4) is None
