"""Model families, one file each: the only place that names an architecture."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mmdpo.models.families._family import PARTS, Family
from mmdpo.models.seams import attention_of
from mmdpo.registry import Registry

__all__ = ["PARTS", "VICUNA", "Family", "attention_of", "family_names", "find_family"]

VICUNA = Path(__file__).parent / "vicuna.jinja"
"""Chat template of LLaVA-1.5 and Bunny-v1.0, as they were trained; `chat_template: vicuna` in a recipe."""


FAMILIES = Registry("models.families", "model family")


def family_names() -> tuple[str, ...]:
    """Names of the families that have a file of their own."""
    return FAMILIES.names()


@cache
def _families() -> dict[str, Family]:
    found: dict[str, Family] = {}
    for name in family_names():
        family = FAMILIES.load(name).FAMILY
        found.update(dict.fromkeys(family.model_types, family))
    return found


def find_family(config: Any) -> Family:
    """Returns the family of a model's configuration; the generic one where no file claims its `model_type`."""
    return _families().get(config.model_type, Family())
