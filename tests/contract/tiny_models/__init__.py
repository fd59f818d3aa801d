"""Real vision-language classes of transformers, made tiny and random here: model, processor and tokenizer, no download.

`MODELS` maps a name to a function that builds one. Sizes are the least that keep what makes a family special: several
patches per image, tiles, windows shorter than a row, features of more than one layer.
"""

from __future__ import annotations

from tiny_models import gemmas, llavas, qwens, tiles
from tiny_models.parts import TinyModel

__all__ = ["MODELS", "TinyModel"]

MODELS = llavas.MODELS | qwens.MODELS | tiles.MODELS | gemmas.MODELS
