"""Real vision-language classes of transformers, made tiny and random here: model, processor and tokenizer, no download.

`MODELS` maps a name to a function that builds one. Sizes are the least that keep what makes a family special: several
patches per image, tiles, windows shorter than a row, features of more than one layer.
"""

from __future__ import annotations

from importlib.util import find_spec

import transformers
from packaging.version import Version

from tiny_models import gemmas, llavas, needing, qwens, tiles
from tiny_models.parts import TinyModel

__all__ = ["DEPENDENT", "EVERY", "MODELS", "TinyModel", "say_what_is_missing"]

SINCE = dict.fromkeys(("gemma4", "gemma4_moe", "gemma3n", "vipllava", "minicpmv4_6"), "5.23")
"""Versions of transformers before which a class does not run as it is built here: 5.18 wants torchvision for Gemma 4's
processor, and ends with an error in Gemma 3n's and in the forwards of the others."""


def say_what_is_missing(name: str) -> str | None:
    """Returns what the installed packages lack for a model, None where they run it."""
    since, package = SINCE.get(name, "0"), needing.NEEDS.get(name)
    if Version(transformers.__version__) < Version(since):
        return f"needs transformers {since}"
    return None if package is None or find_spec(package) else f"needs {package}"


EVERY = llavas.MODELS | qwens.MODELS | tiles.MODELS | gemmas.MODELS | needing.MODELS
MODELS = {name: make for name, make in EVERY.items() if say_what_is_missing(name) is None}
DEPENDENT = {name: make for name, make in qwens.DEPENDENT.items() if say_what_is_missing(name) is None}
"""What their towers say of a picture may depend on the pictures beside it."""
