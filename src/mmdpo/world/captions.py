"""Captions of the embedded worlds: their two styles, who writes them, and how well they fit their scenes.

    terse   cup , plate .
    polite  sure ! this kitchen shows cup , plate . hope this helps !

Objects stand in canonical order, so that a partner follows its anchor: the place where a language prior takes over.
The measures are those of CHAIR and AMBER, exact because the scenes are known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from mmdpo.world.scenes import Scene
from mmdpo.world.worlds import World

Style: TypeAlias = Literal["terse", "polite"]


@dataclass(frozen=True)
class Captioner:
    """Looks at scenes, and sometimes writes what is usual instead of what is there."""

    partner_rate: float
    """Probability of naming a present anchor's absent partner; its twin, if there, is then taken for it."""
    drop_rate: float
    """Probability of leaving out an object that is there."""

    def name_objects(self, scene: Scene, generator: np.random.Generator) -> tuple[str, ...]:
        """Returns the objects that this captioner names for a scene, in canonical order; at least one."""
        world, present = scene.world, scene.names
        named = {name for name in present if generator.random() >= self.drop_rate}
        for anchor, partner in world.partners.items():
            if anchor in present and partner not in present and generator.random() < self.partner_rate:
                named.add(partner)
                named.discard(world.twins.get(partner, ""))
        return canonical_order(world, named or present)


SUPERVISED_CAPTIONER = Captioner(partner_rate=0.5, drop_rate=0.05)
"""Wrote the captions of supervised training."""
BETTER_CAPTIONER = Captioner(partner_rate=0.05, drop_rate=0.05)
"""Wrote the chosen captions of the preference pairs."""


def canonical_order(world: World, objects: Collection[str]) -> tuple[str, ...]:
    """Returns the distinct objects in the world's order; raises `ValueError` for a name that is none of its objects."""
    unknown = sorted(set(objects) - set(world.objects))
    if unknown:
        raise ValueError(f"not objects of {world.name}: {', '.join(unknown)}; it has {', '.join(world.objects)}")
    return tuple(name for name in world.objects if name in objects)


def write_caption(world: World, objects: Collection[str], setting: str, style: Style) -> str:
    """Writes the caption that names `objects`; words and punctuation are set apart by single spaces."""
    listing = " ".join([" , ".join(canonical_order(world, objects)), "."]).strip()
    if style == "terse":
        return listing
    return f"sure ! this {setting} shows {listing} hope this helps !"


@dataclass(frozen=True)
class CaptionDetail:
    """One caption compared with its scene. A word that a caption repeats counts once."""

    mentioned: tuple[str, ...]
    """All objects that the caption names, in its order."""
    correct: tuple[str, ...]
    """Objects that are there and are named, in the order of the caption."""
    hallucinated: tuple[str, ...]
    """Objects that are named and are not there, in the order of the caption."""
    cognitive: tuple[str, ...]
    """Those of `hallucinated` whose anchor is there: what habit, not sight, put into the caption."""
    missed: tuple[str, ...]
    """Objects that are there and are not named, in canonical order."""


def compare_names(world: World, present: Sequence[str], caption: str) -> CaptionDetail:
    """Sorts the objects of a caption, and those that are present, into correct, hallucinated and missed."""
    mentioned = mentioned_objects(world, caption)
    suggested = {world.partners[name] for name in present if name in world.partners}
    hallucinated = tuple(name for name in mentioned if name not in present)
    return CaptionDetail(
        mentioned=mentioned,
        correct=tuple(name for name in mentioned if name in present),
        hallucinated=hallucinated,
        cognitive=tuple(name for name in hallucinated if name in suggested),
        missed=tuple(name for name in present if name not in mentioned),
    )


def mentioned_objects(world: World, text: str) -> tuple[str, ...]:
    """Returns the objects that a caption names, in the order of their first mention, each of them once."""
    return tuple(dict.fromkeys(word for word in text.split() if word in world.icons))


@dataclass(frozen=True)
class WorldScores:
    """Measures over a set of captions, each in per cent; the definitions are CHAIR's and AMBER's."""

    chair_i: float
    """Hallucinated mentions / mentions, over all captions together. Lower is better."""
    chair_s: float
    """Captions with at least one hallucinated mention / captions. Lower is better."""
    cover: float
    """Objects of the scenes that are named / objects of the scenes. Higher is better."""
    cog: float
    """Mentions of an absent partner whose anchor is present / mentions: the part of `chair_i` that follows the
    co-occurrence prior, as AMBER's Cog is. Lower is better."""


def score_captions(scenes: Sequence[Scene], captions: Sequence[str]) -> WorldScores:
    """Scores one caption per scene; a ratio without a denominator (no caption names anything) is 0.

    Raises `ValueError` if there is not exactly one caption per scene, or no scene at all.
    """
    if len(scenes) != len(captions) or not scenes:
        raise ValueError(f"{len(scenes)} scenes and {len(captions)} captions: give one caption for each, at least one")
    details = [compare_names(s.world, s.names, caption) for s, caption in zip(scenes, captions, strict=True)]
    correct = sum(len(detail.correct) for detail in details)
    hallucinated = sum(len(detail.hallucinated) for detail in details)
    present = sum(len(scene.objects) for scene in scenes)
    return WorldScores(
        chair_i=_per_cent(hallucinated, correct + hallucinated),
        chair_s=_per_cent(sum(1 for detail in details if detail.hallucinated), len(details)),
        cover=_per_cent(correct, present),
        cog=_per_cent(sum(len(detail.cognitive) for detail in details), correct + hallucinated),
    )


def _per_cent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
