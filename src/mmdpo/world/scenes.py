"""Scenes of the embedded worlds: what stands where, its picture, and captions: who writes them, how well they fit.

Every object name is one drawing, in one of three colours, turned a little; every setting is one background. Each
setting owns three (anchor, partner) pairs; how often a partner stands beside its anchor (`co_occurrence`) is the one
statistic that differs between the scenes a captioner is trained on and those it is tested on. Captions have two styles:

    terse   cup , plate .
    polite  sure ! this kitchen shows cup , plate . hope this helps !

Objects stand in canonical order, so that a partner follows its anchor: the place where a language prior takes over.
The measures are those of CHAIR and AMBER, exact because the scenes are known.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from mmdpo.records import derive_generator
from mmdpo.world import SMALL, Layout, World
from mmdpo.world.drawings import COLOURS_OF, TURNS, object_pixels, setting_pixels

Style: TypeAlias = Literal["terse", "polite"]

ANCHOR_RATE = 0.55
"""Probability that an anchor stands in a scene of its setting."""
LONE_PARTNER_RATE = 0.12
"""Probability that a partner stands in a scene of its setting when its anchor does not."""
STRANGER_RATE = 0.15
"""Probability that a scene holds one object of another setting, each of them equally likely."""
SUPERVISED_CO_OCCURRENCE = 0.85
"""Probability of a partner beside its anchor in the scenes of supervised training."""
BALANCED_CO_OCCURRENCE = 0.50
"""Probability of a partner beside its anchor in preference and test scenes."""


class PlacedObject(NamedTuple):
    """One object of a scene; `left` and `top` are the pixels of its upper left corner."""

    name: str
    left: int
    top: int
    size: int
    colour: str
    """One of those that `mmdpo.world.drawings` has for its name."""
    turn: int = 0
    """Degrees, counterclockwise."""
    is_mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """One scene, complete: the same record always renders to the same pixels."""

    setting: str
    objects: tuple[PlacedObject, ...]
    """In canonical order, each name at most once, never empty."""
    seed: int
    """Seed of the pixel noise."""
    world: World = field(default=SMALL, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects, in canonical order."""
        return tuple(placed.name for placed in self.objects)


def sample_scene(generator: np.random.Generator, co_occurrence: float, world: World = SMALL) -> Scene:
    """Draws one scene; `co_occurrence` is the probability of a partner beside its anchor, ValueError if it is none.

    A draw without any object, one in nineteen, is repeated, which raises the rate of every object by as much.
    """
    if not 0.0 <= co_occurrence <= 1.0:
        raise ValueError(f"co_occurrence is a probability, from 0 to 1; got {co_occurrence}")
    setting = str(generator.choice(tuple(world.settings)))
    names: set[str] = set()
    while not names:
        names = _draw_names(world, setting, generator, co_occurrence)
    roomy = [layout for layout in world.layouts if layout.grid**2 >= len(names)]
    layout = roomy[int(generator.integers(len(roomy)))] if len(roomy) > 1 else roomy[0]
    return _arrange(setting, names, layout, world, generator)


def sample_scenes(count: int, seed: int, co_occurrence: float, purpose: str, world: World = SMALL) -> list[Scene]:
    """Draws `count` scenes; scene i depends on `seed`, `purpose`, world and i, so purposes share no scenes."""
    return [sample_scene(derive_generator(seed, str(index), purpose), co_occurrence, world) for index in range(count)]


def sample_crowds(count: int, seed: int, world: World = SMALL) -> list[Scene]:
    """Draws scenes in which any objects stand, half of the places taken or more, to learn what objects look like.

    Nothing in them says which objects go together, and a picture shows many.
    """
    crowds = []
    for index in range(count):
        generator = derive_generator(seed, str(index), "crowd")
        layout = world.layouts[int(generator.integers(len(world.layouts)))]
        most = min(layout.grid**2, len(world.objects))
        names = generator.choice(world.objects, int(generator.integers((most + 1) // 2, most + 1)), replace=False)
        setting = str(generator.choice(tuple(world.settings)))
        crowds.append(_arrange(setting, names.tolist(), layout, world, generator))
    return crowds


def draw_test_scenes(
    count: int, seed: int, world: World = SMALL, co_occurrence: float = BALANCED_CO_OCCURRENCE
) -> list[Scene]:
    """Draws test scenes; none of them depends on a seed that a training or preference scene depends on."""
    return sample_scenes(count, seed, co_occurrence, "test", world)


def render(scene: Scene) -> Image.Image:
    """Paints a scene as an RGB picture: its setting, then the objects, then pixel noise."""
    world = scene.world
    canvas = setting_pixels(scene.setting, world.image_size).copy()
    for name, left, top, size, colour, turn, is_mirrored in scene.objects:
        drawn = object_pixels(name, colour, turn, is_mirrored, world.object_sizes)[size].astype(np.float32)
        patch = canvas[top : top + size, left : left + size]
        patch += drawn[..., 3:] / 255.0 * (drawn[..., :3] - patch)
    noise = np.random.default_rng(scene.seed).standard_normal(canvas.shape, dtype=np.float32)
    canvas += world.pixel_noise * noise
    return Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8))


def draw_ahead(world: World) -> None:
    """Draws every object of a world as it may stand in a scene: three seconds for the small one, nine for the other.

    Scenes that are rendered afterwards by this process, or by one forked from it, find theirs drawn.
    """
    for name in world.objects:
        for colour, turn, is_mirrored in product(COLOURS_OF[name], TURNS, (False, True)):
            object_pixels(name, colour, turn, is_mirrored, world.object_sizes)


def _draw_names(world: World, setting: str, generator: np.random.Generator, co_occurrence: float) -> set[str]:
    names = set()
    for pair in world.settings[setting]:
        has_anchor = generator.random() < ANCHOR_RATE
        has_partner = generator.random() < (co_occurrence if has_anchor else LONE_PARTNER_RATE)
        names |= {pair.anchor} if has_anchor else set()
        names |= {pair.partner} if has_partner else set()
        if pair.twin is not None and has_anchor and not has_partner and generator.random() < world.twin_rate:
            names.add(pair.twin)
    if generator.random() < STRANGER_RATE:
        own = {name for pair in world.settings[setting] for name in pair.members}
        names.add(str(generator.choice([name for name in world.objects if name not in own])))
    return names


def _arrange(
    setting: str, names: Collection[str], layout: Layout, world: World, generator: np.random.Generator
) -> Scene:
    cells = generator.permutation(layout.grid**2)
    objects = tuple(
        _place(name, int(cell), layout, world.image_size, generator)
        for name, cell in zip(canonical_order(world, names), cells, strict=False)
    )
    return Scene(setting, objects, int(generator.integers(2**63)), world)


def _place(name: str, cell: int, layout: Layout, image_size: int, generator: np.random.Generator) -> PlacedObject:
    row, column = divmod(cell, layout.grid)
    size = int(generator.choice(layout.object_sizes))
    width = image_size // layout.grid
    shift_x, shift_y = (int(shift) for shift in generator.integers(-layout.jitter, layout.jitter + 1, size=2))
    furthest = image_size - size
    left = min(max(column * width + (width - size) // 2 + shift_x, 0), furthest)
    top = min(max(row * width + (width - size) // 2 + shift_y, 0), furthest)
    colour, turn = str(generator.choice(COLOURS_OF[name])), int(generator.choice(TURNS))
    return PlacedObject(name, left, top, size, colour, turn, bool(generator.random() < 0.5))


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
    listing = f"{' , '.join(canonical_order(world, objects))} .".strip()
    if style == "terse":
        return listing
    return f"sure ! this {setting} shows {listing} hope this helps !"


@dataclass(frozen=True)
class CaptionDetail:
    """One caption compared with its scene. A word that a caption repeats counts once."""

    mentioned: tuple[str, ...]
    """All objects that the caption names, in its order, as in the next three."""
    correct: tuple[str, ...]
    hallucinated: tuple[str, ...]
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
    """Returns the objects that a caption names, each once, in the order of their first mention."""
    return tuple(dict.fromkeys(word for word in text.split() if word in world.objects))


@dataclass(frozen=True)
class WorldScores:
    """CHAIR's and AMBER's measures over a set of captions, in per cent; of `cover` alone, higher is better."""

    chair_i: float
    """Hallucinated mentions / mentions, over all captions together."""
    chair_s: float
    """Captions with at least one hallucinated mention / captions."""
    cover: float
    """Objects of the scenes that are named / objects of the scenes."""
    cog: float
    """Mentions of an absent partner whose anchor is present / mentions: what of `chair_i` follows the prior."""


def score_captions(scenes: Sequence[Scene], captions: Sequence[str]) -> WorldScores:
    """Scores one caption per scene, ValueError for another number or none; a ratio without a denominator is 0."""
    if len(scenes) != len(captions) or not scenes:
        raise ValueError(f"{len(scenes)} scenes and {len(captions)} captions: give one caption for each, at least one")
    details = [compare_names(s.world, s.names, caption) for s, caption in zip(scenes, captions, strict=True)]
    mentions = sum(len(detail.mentioned) for detail in details)
    return WorldScores(
        chair_i=100.0 * sum(len(detail.hallucinated) for detail in details) / max(mentions, 1),
        chair_s=100.0 * sum(bool(detail.hallucinated) for detail in details) / len(details),
        cover=100.0 * sum(len(detail.correct) for detail in details) / sum(len(scene.objects) for scene in scenes),
        cog=100.0 * sum(len(detail.cognitive) for detail in details) / max(mentions, 1),
    )
