"""Scenes of the embedded world: what stands where, and the 48 × 48 picture of it.

Every object name is one icon (a shape in a colour), every setting is one background. Each setting owns three
(anchor, partner) pairs; how often a partner stands beside its anchor (`co_occurrence`) is the one statistic that
differs between the scenes a captioner is trained on and the scenes it is tested on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmdpo.examples import derive_generator

IMAGE_SIZE = 48
"""Pixels along each side of a picture."""
GRID = 4
"""Cells along each side; an object has a cell to itself."""
ICON_SIZES = (7, 8, 9, 10)
"""Pixels along the side of an icon; a cell is 12 pixels wide."""
JITTER = 2
"""An icon's centre lies up to this many pixels from the centre of its cell, along either axis."""
PIXEL_NOISE = 10.0
"""Standard deviation of the noise on every channel of every pixel, of 255."""

ANCHOR_RATE = 0.55
"""Probability that an anchor stands in a scene of its setting."""
LONE_PARTNER_RATE = 0.12
"""Probability that a partner stands in a scene of its setting when its anchor does not."""
STRANGER_RATE = 0.15
"""Probability that a scene holds one object of another setting, each of the twelve equally likely."""
SUPERVISED_CO_OCCURRENCE = 0.85
"""Probability of a partner beside its anchor in the scenes of supervised training."""
BALANCED_CO_OCCURRENCE = 0.50
"""Probability of a partner beside its anchor in preference and test scenes."""


@dataclass(frozen=True)
class Pair:
    """Two objects of which the second often stands beside the first."""

    anchor: str
    partner: str


SETTINGS: Mapping[str, tuple[Pair, ...]] = {
    "kitchen": (Pair("cup", "plate"), Pair("kettle", "stove"), Pair("apple", "bowl")),
    "street": (Pair("car", "sign"), Pair("bike", "helmet"), Pair("tree", "bench")),
    "bedroom": (Pair("bed", "lamp"), Pair("book", "clock"), Pair("rug", "chair")),
}
"""The settings and the pairs that each of them owns."""

PAIRS: tuple[Pair, ...] = tuple(pair for pairs in SETTINGS.values() for pair in pairs)
PARTNERS: Mapping[str, str] = {pair.anchor: pair.partner for pair in PAIRS}
"""Anchor → partner."""
OBJECTS: tuple[str, ...] = tuple(name for pair in PAIRS for name in (pair.anchor, pair.partner))
"""All object names in canonical order: setting by setting, each anchor before its partner."""

_COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 30),
    "yellow": (240, 220, 50),
    "green": (50, 160, 60),
    "teal": (30, 170, 170),
    "blue": (45, 85, 210),
    "purple": (130, 60, 175),
    "pink": (240, 120, 180),
    "brown": (120, 75, 40),
    "black": (35, 35, 40),
}
_ICONS: Mapping[str, tuple[str, str]] = {
    "cup": ("square", "blue"),
    "plate": ("disc", "teal"),
    "kettle": ("triangle", "black"),
    "stove": ("square", "brown"),
    "apple": ("disc", "red"),
    "bowl": ("diamond", "orange"),
    "car": ("square", "red"),
    "sign": ("diamond", "yellow"),
    "bike": ("cross", "purple"),
    "helmet": ("disc", "orange"),
    "tree": ("triangle", "green"),
    "bench": ("cross", "brown"),
    "bed": ("square", "pink"),
    "lamp": ("triangle", "yellow"),
    "book": ("diamond", "blue"),
    "clock": ("disc", "black"),
    "rug": ("diamond", "purple"),
    "chair": ("cross", "green"),
}
_BACKGROUNDS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "kitchen": ((228, 214, 188), (196, 182, 160)),
    "street": ((186, 204, 222), (140, 146, 152)),
    "bedroom": ((214, 196, 214), (176, 160, 184)),
}
"""Colours of the first and of the last row of pixels; the rows between are a gradient."""


@dataclass(frozen=True)
class PlacedObject:
    """One object of a scene; `left` and `top` are the pixels of its icon's upper left corner."""

    name: str
    row: int
    column: int
    left: int
    top: int
    size: int


@dataclass(frozen=True)
class Scene:
    """One scene, complete: the same record always renders to the same pixels."""

    setting: str
    objects: tuple[PlacedObject, ...]
    """In canonical order, each name at most once, never empty."""
    seed: int
    """Seed of the pixel noise."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects, in canonical order."""
        return tuple(placed.name for placed in self.objects)


def sample_scene(generator: np.random.Generator, co_occurrence: float) -> Scene:
    """Draws one scene.

    `co_occurrence` is the probability of a partner beside its anchor; `ValueError` if it is none. A draw without any
    object is thrown away and drawn again, for there would be nothing to say about it: that happens to one draw in
    nineteen, and raises the rate of every object by as much.
    """
    if not 0.0 <= co_occurrence <= 1.0:
        raise ValueError(f"co_occurrence is a probability, from 0 to 1; got {co_occurrence}")
    setting = str(generator.choice(tuple(SETTINGS)))
    names: set[str] = set()
    while not names:
        names = _draw_names(setting, generator, co_occurrence)
    cells = generator.permutation(GRID * GRID)
    objects = tuple(
        _place(name, int(cell), generator)
        for name, cell in zip((name for name in OBJECTS if name in names), cells, strict=False)
    )
    return Scene(setting, objects, int(generator.integers(2**63)))


def sample_scenes(count: int, seed: int, co_occurrence: float, purpose: str) -> list[Scene]:
    """Draws `count` scenes; scene i depends on `seed`, `purpose` and i alone, so purposes share no scenes."""
    return [sample_scene(derive_generator(seed, str(index), purpose), co_occurrence) for index in range(count)]


def render(scene: Scene) -> Image.Image:
    """Paints a scene as a 48 × 48 RGB picture: gradient, then icons, then pixel noise."""
    canvas = _background(scene.setting).copy()
    for placed in scene.objects:
        shape, colour = _ICONS[placed.name]
        patch = canvas[placed.top : placed.top + placed.size, placed.left : placed.left + placed.size]
        patch[_mask(shape, placed.size)] = _COLOURS[colour]
    canvas += np.random.default_rng(scene.seed).normal(0.0, PIXEL_NOISE, canvas.shape)
    return Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8))


def _draw_names(setting: str, generator: np.random.Generator, co_occurrence: float) -> set[str]:
    names = set()
    for pair in SETTINGS[setting]:
        has_anchor = generator.random() < ANCHOR_RATE
        has_partner = generator.random() < (co_occurrence if has_anchor else LONE_PARTNER_RATE)
        names |= {pair.anchor} if has_anchor else set()
        names |= {pair.partner} if has_partner else set()
    if generator.random() < STRANGER_RATE:
        own = {name for pair in SETTINGS[setting] for name in (pair.anchor, pair.partner)}
        names.add(str(generator.choice([name for name in OBJECTS if name not in own])))
    return names


def _place(name: str, cell: int, generator: np.random.Generator) -> PlacedObject:
    row, column = divmod(cell, GRID)
    size = int(generator.choice(ICON_SIZES))
    width = IMAGE_SIZE // GRID
    shift_x, shift_y = (int(shift) for shift in generator.integers(-JITTER, JITTER + 1, size=2))
    furthest = IMAGE_SIZE - size
    left = min(max(column * width + (width - size) // 2 + shift_x, 0), furthest)
    top = min(max(row * width + (width - size) // 2 + shift_y, 0), furthest)
    return PlacedObject(name, row, column, left, top, size)


@cache
def _background(setting: str) -> NDArray[np.float64]:
    first, last = (np.asarray(colour, dtype=np.float64) for colour in _BACKGROUNDS[setting])
    share = np.linspace(0.0, 1.0, IMAGE_SIZE)[:, None]
    rows = (1.0 - share) * first + share * last
    return np.repeat(rows[:, None, :], IMAGE_SIZE, axis=1)


@cache
def _mask(shape: str, size: int) -> NDArray[np.bool_]:
    """Pixels of a `size` × `size` icon that carry its colour."""
    # Pixel centres, scaled so that the icon spans -1 … 1 along both axes.
    axis = (2.0 * np.arange(size) + 1.0) / size - 1.0
    y, x = axis[:, None], axis[None, :]
    masks = {
        "square": np.ones((size, size), dtype=np.bool_),
        "disc": x**2 + y**2 <= 1.0,
        "diamond": np.abs(x) + np.abs(y) <= 1.0,
        "triangle": np.abs(x) <= (y + 1.0) / 2.0,
        "cross": (np.abs(x) <= 0.4) | (np.abs(y) <= 0.4),
    }
    return masks[shape]
