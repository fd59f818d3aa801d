"""Captions of the embedded world: their words, their two styles, and the two captioners that write them.

    terse   cup , plate .
    polite  sure ! this kitchen shows cup , plate . hope this helps !

Objects stand in canonical order, so that a partner follows its anchor: the place where a language prior takes over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from mmdpo.world.scenes import OBJECTS, PARTNERS, SETTINGS, Scene

Style: TypeAlias = Literal["terse", "polite"]

PROMPT = "describe"
"""The one instruction of this world."""
MAX_WORDS = 48
"""Room for any caption: a polite one of all eighteen objects has 45 words."""
PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN, IMAGE)
ROLES = ("user", "assistant")
VOCABULARY: tuple[str, ...] = (
    *SPECIAL_TOKENS,
    *ROLES,
    PROMPT,
    *SETTINGS,
    *OBJECTS,
    *(",", ".", "!", "sure", "this", "shows", "hope", "helps"),
)
"""The 37 tokens of the tokenizer; a token's place is its id."""


@dataclass(frozen=True)
class Captioner:
    """Somebody who looks at scenes and sometimes writes what is usual instead of what is there."""

    partner_rate: float
    """Probability of naming a present anchor's absent partner."""
    drop_rate: float
    """Probability of leaving out an object that is there."""

    def name_objects(self, scene: Scene, generator: np.random.Generator) -> tuple[str, ...]:
        """Returns the objects that this captioner names for a scene, in canonical order; at least one."""
        present = scene.names
        named = {name for name in present if generator.random() >= self.drop_rate}
        for anchor, partner in PARTNERS.items():
            if anchor in present and partner not in present and generator.random() < self.partner_rate:
                named.add(partner)
        return canonical_order(named or present)


SUPERVISED_CAPTIONER = Captioner(partner_rate=0.5, drop_rate=0.05)
"""Wrote the captions of supervised training."""
BETTER_CAPTIONER = Captioner(partner_rate=0.05, drop_rate=0.05)
"""Wrote the chosen captions of the preference pairs."""


def canonical_order(objects: Collection[str]) -> tuple[str, ...]:
    """Returns the distinct objects in the order of `OBJECTS`; raises `ValueError` for a name that is none."""
    unknown = sorted(set(objects) - set(OBJECTS))
    if unknown:
        raise ValueError(f"not objects of the world: {', '.join(unknown)}; its objects are {', '.join(OBJECTS)}")
    return tuple(name for name in OBJECTS if name in objects)


def write_caption(objects: Collection[str], setting: str, style: Style) -> str:
    """Writes the caption that names `objects`; words and punctuation are set apart by single spaces."""
    listing = " ".join([" , ".join(canonical_order(objects)), "."]).strip()
    if style == "terse":
        return listing
    return f"sure ! this {setting} shows {listing} hope this helps !"


@dataclass(frozen=True)
class CaptionDetail:
    """One caption held against its scene. A word that a caption repeats counts once."""

    caption: str
    correct: tuple[str, ...]
    """Objects that are there and are named, in the order of the caption."""
    hallucinated: tuple[str, ...]
    """Objects that are named and are not there, in the order of the caption."""
    cognitive: tuple[str, ...]
    """Those of `hallucinated` whose anchor is there: what habit, not sight, put into the caption."""
    missed: tuple[str, ...]
    """Objects that are there and are not named, in canonical order."""

    @property
    def mentioned(self) -> tuple[str, ...]:
        """All objects that the caption names, in its order."""
        return mentioned_objects(self.caption)


def compare_names(present: Sequence[str], caption: str) -> CaptionDetail:
    """Sorts the objects of a caption, and those that are present, into correct, hallucinated and missed."""
    mentioned = mentioned_objects(caption)
    suggested = {PARTNERS[name] for name in present if name in PARTNERS}
    hallucinated = tuple(name for name in mentioned if name not in present)
    return CaptionDetail(
        caption=caption,
        correct=tuple(name for name in mentioned if name in present),
        hallucinated=hallucinated,
        cognitive=tuple(name for name in hallucinated if name in suggested),
        missed=tuple(name for name in present if name not in mentioned),
    )


def mentioned_objects(text: str) -> tuple[str, ...]:
    """Returns the objects that a caption names, in the order of their first mention, each of them once."""
    names = set(OBJECTS)
    return tuple(dict.fromkeys(word for word in text.split() if word in names))
