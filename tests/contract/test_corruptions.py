"""What every corruption promises, whoever wrote it: a file dropped into `mmdpo/corruption` is tested here."""

import inspect
import io
import pickle

import numpy as np
import pytest
import skimage.data
from PIL import Image

from mmdpo.corruption import load, names

SIZES = [(1, 1), (1, 500), (500, 1), (300, 100), (48, 48), (640, 427)]
PHOTOGRAPH = Image.fromarray(skimage.data.coffee())
OTHER = Image.fromarray(skimage.data.chelsea())


@pytest.fixture(params=names())
def corruption(request):
    return load(request.param)


def corrupt(corruption, image, seed=0):
    region = np.ones((image.height, image.width), dtype=bool)
    return corruption(image, np.random.default_rng(seed), other=OTHER, region=region)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_size_and_mode_are_kept_and_the_input_is_untouched(corruption, size):
    image = PHOTOGRAPH.resize(size)
    before = image.tobytes()
    result = corrupt(corruption, image)
    assert result.mode == "RGB"
    assert result.size == (OTHER.size if corruption.needs_other_image else size)
    assert image.tobytes() == before


@pytest.mark.parametrize(
    ("mode", "encoding"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG")],
)
def test_a_file_of_any_bit_depth_gives_what_its_pixels_give(corruption, mode, encoding):
    """Pictures opened from files are lazy and carry metadata (palettes, transparency); neither may matter."""
    small, file = PHOTOGRAPH.resize((60, 40)), io.BytesIO()
    deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else None
    (deep or small.convert(mode)).save(file, encoding, **({"transparency": 3} if mode == "P" else {}))
    opened = Image.open(file)
    image = opened if opened.mode == "RGB" else opened.convert("RGB")
    result = corrupt(corruption, image)
    assert result.tobytes() == corrupt(corruption, Image.fromarray(np.asarray(image))).tobytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_picture(corruption):
    image = PHOTOGRAPH.resize((320, 213))
    generator = np.random.default_rng(0)
    start = generator.bit_generator.state
    first = corruption(image, generator, other=OTHER, region=np.ones((213, 320), dtype=bool))
    assert corrupt(corruption, image).tobytes() == first.tobytes()
    if generator.bit_generator.state != start:  # It drew something, so the draw must show.
        assert corrupt(corruption, image, seed=1).tobytes() != first.tobytes()
    assert first.tobytes() != image.tobytes()


def test_no_randomness_comes_from_elsewhere(corruption):
    image = PHOTOGRAPH.resize((64, 48))
    np.random.seed(0)
    first = corrupt(corruption, image).tobytes()
    np.random.seed(1)
    assert corrupt(corruption, image).tobytes() == first


def test_it_is_documented_says_what_it_needs_and_reaches_workers(corruption):
    assert inspect.getdoc(corruption.function)
    takes_other = "other" in inspect.signature(corruption.function).parameters
    assert takes_other == corruption.needs_other_image
    assert ("region" in inspect.signature(corruption.function).parameters) == corruption.needs_region
    assert corruption.with_options(**corruption.options) == corruption
    assert pickle.loads(pickle.dumps(corruption)) == corruption
