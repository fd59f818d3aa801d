"""Real vision-language classes of transformers, made tiny and random here: model, processor and tokenizer, no download.

`MODELS` maps a name to a function that builds one. Sizes are the least that keep what makes a family special: several
patches per image, tiles, windows shorter than a row, features of more than one layer.
"""

from __future__ import annotations

import transformers
from packaging.version import Version

from tiny_models import gemmas, llavas, qwens, tiles
from tiny_models.parts import TinyModel

__all__ = ["DEPENDENT", "EVERY", "MODELS", "TinyModel"]

SINCE = dict.fromkeys(("gemma4", "gemma4_moe", "vipllava", "minicpmv4_6"), "5.23")
"""Versions of transformers before which a class does not run as it is built here: 5.18 wants torchvision for Gemma 4's
processor, and ends with an error in the forwards of the others."""


def is_there(name: str) -> bool:
    """Says whether the installed transformers runs a model."""
    return Version(transformers.__version__) >= Version(SINCE.get(name, "0"))


EVERY = llavas.MODELS | qwens.MODELS | tiles.MODELS | gemmas.MODELS
MODELS = {name: make for name, make in EVERY.items() if is_there(name)}
DEPENDENT = {name: make for name, make in qwens.DEPENDENT.items() if is_there(name)}
"""What their towers say of a picture may depend on the pictures beside it."""
