"""Examples for the processor of the embedded world: pictures of 60 × 40, one picture being 16 tokens of a prompt."""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from mmdpo.corruption import load
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family
from mmdpo.objective import build_objective
from mmdpo.records import PreferenceExample
from mmdpo.world.model import CHECKPOINT


@pytest.fixture(scope="session")
def picture():
    def draw(seed):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    return draw


@pytest.fixture(scope="session")
def make_example(picture):
    def make(number, **fields):
        """An example with one picture of its own, unless `images` says otherwise."""
        images = fields.pop("images", (picture(number),))
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": "describe"}]
        given = {
            "id": f"id-{number}",
            "prompt": ({"role": "user", "content": parts},),
            "responses": {"chosen": "cup , plate .", "rejected": "sure ! car ."},
            "images": images,
            "source": f"pairs.json, row {number + 1}",
        }
        return PreferenceExample(**(given | fields))

    return make


@pytest.fixture(scope="session")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="session")
def make_preparer(processor):
    def make(objective="mdpo", corruption="crop_0_20", seed=7, **fields):
        built = build_objective(objective)
        cells = built.cells
        others = {cell.image: load(cell.image) for cell in cells if cell.image not in ("original", "corrupted", "none")}
        corruptions = {"corrupted": load(corruption), **others}
        asked = dict(
            comparisons=built.comparisons,
            corrupts_equal_answers_only=built.corrupts_equal_answers_only,
        )
        return Preparer(Renderer(processor, Family()), cells, corruptions, seed, **(asked | fields))

    return make
