"""What the objects and the settings of the embedded worlds look like, drawn with Pillow.

An object is drawn once, large, in one of its colours, with a dark outline; turned, mirrored and scaled down, it stands
in a scene. Every drawing is a function of a `Pen`, whose coordinates run from 0 to 100 along both axes, y downwards. A
twin is its partner's drawing with one readable detail changed: a lid, a handle, a spoon, a longer neck.

A new object: a function here under its name, and its colours in `COLOURS_OF`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""

COLOURS: Mapping[str, Colour] = {
    "red": (206, 52, 48), "orange": (238, 140, 44), "yellow": (242, 206, 66), "green": (74, 152, 72),
    "teal": (50, 158, 158), "blue": (58, 104, 200), "purple": (134, 84, 176), "pink": (236, 138, 178),
    "brown": (146, 98, 58), "grey": (142, 148, 158), "white": (244, 242, 236), "black": (64, 66, 76),
}  # fmt: skip
INK: Colour = (34, 34, 44)
WOOD: Colour = (150, 102, 62)
STEEL: Colour = (176, 182, 192)
CREAM: Colour = (248, 240, 220)
GLASS: Colour = (168, 214, 236)
LEAF: Colour = (84, 158, 70)
GLOW: Colour = (250, 200, 84)

CANVAS = 256
"""Pixels along each side of the drawing that smaller ones are made from."""
OUTLINE = 9
"""Width of the outline, in pixels of the canvas."""
TURNS = (-10, -5, 0, 5, 10)
"""Degrees that an object may be turned by, counterclockwise."""


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """Returns a colour moved towards another by `share`, from 0 to 1."""
    red, green, blue = (round((1.0 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
    return red, green, blue


class Pen:
    """Draws on a square, transparent canvas in units of a hundredth of its side."""

    def __init__(self, body: Colour) -> None:
        self.image = Image.new("RGBA", (CANVAS, CANVAS))
        self._draw = ImageDraw.Draw(self.image)
        self.body = body
        """The colour that the object has this time."""
        self.dark = blend(body, INK, 0.4)
        self.light = blend(body, (255, 255, 255), 0.45)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fills a polygon."""
        self._draw.polygon([self._place(point) for point in points], fill=fill)

    def rectangle(self, box: Box, fill: Colour, radius: float = 0) -> None:
        """Fills a rectangle whose corners are rounded by `radius`."""
        self._draw.rounded_rectangle(self._scale(box), radius * CANVAS / 100, fill=fill)

    def ellipse(self, box: Box, fill: Colour) -> None:
        """Fills an ellipse."""
        self._draw.ellipse(self._scale(box), fill=fill)

    def pie(self, box: Box, start: float, end: float, fill: Colour) -> None:
        """Fills a sector of an ellipse; angles in degrees, clockwise from three o'clock."""
        self._draw.pieslice(self._scale(box), start, end, fill=fill)

    def ring(self, box: Box, width: float, fill: Colour, start: float = 0, end: float = 360) -> None:
        """Draws a part of an ellipse's outline, on the inner side of its box."""
        self._draw.arc(self._scale(box), start, end, fill=fill, width=round(width * CANVAS / 100))

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draws a line with round joints and ends."""
        placed, thick = [self._place(point) for point in points], width * CANVAS / 100
        self._draw.line(placed, fill=fill, width=round(thick), joint="curve")
        for x, y in placed:
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    @staticmethod
    def _place(point: Point) -> Point:
        return (point[0] * CANVAS / 100, point[1] * CANVAS / 100)

    @staticmethod
    def _scale(box: Box) -> Box:
        return tuple(value * CANVAS / 100 for value in box)  # type: ignore[return-value]


# Kitchen


def _cup(pen: Pen) -> None:
    pen.ring((58, 36, 92, 72), 8, pen.body)
    pen.polygon([(14, 26), (74, 26), (66, 86), (22, 86)], pen.body)
    pen.polygon([(58, 30), (74, 26), (66, 86), (56, 86)], pen.dark)
    pen.ellipse((14, 15, 74, 37), pen.light)
    pen.ellipse((20, 19, 68, 33), (88, 54, 32))


def _plate(pen: Pen) -> None:
    pen.ellipse((6, 6, 94, 94), pen.body)
    pen.ring((14, 14, 86, 86), 5, pen.dark)
    pen.ellipse((28, 28, 72, 72), pen.light)


def _saucer(pen: Pen) -> None:
    _plate(pen)
    pen.line([(90, 8), (46, 52)], 8, INK)
    pen.ellipse((22, 44, 54, 76), INK)


def _kettle(pen: Pen) -> None:
    pen.ring((10, 0, 86, 84), 6, INK, 190, 350)
    pen.polygon([(70, 58), (96, 40), (99, 48), (80, 80)], pen.dark)
    pen.pie((10, 40, 84, 124), 180, 360, pen.body)
    pen.rectangle((10, 76, 84, 94), pen.body, 6)
    pen.rectangle((10, 84, 84, 94), pen.dark, 4)
    pen.ellipse((40, 31, 54, 45), INK)
    pen.line([(24, 72), (32, 56)], 6, pen.light)


def _stove(pen: Pen) -> None:
    pen.rectangle((10, 22, 90, 94), pen.body, 4)
    pen.rectangle((10, 22, 90, 34), INK, 3)
    for x in (30, 70):
        pen.polygon([(x - 12, 22), (x - 6, 6), (x, 15), (x + 6, 4), (x + 12, 22)], (242, 120, 40))
    pen.rectangle((20, 48, 80, 86), pen.dark, 4)
    pen.line([(30, 42), (70, 42)], 5, pen.light)


def _oven(pen: Pen) -> None:
    _stove(pen)
    pen.rectangle((18, 48, 82, 88), INK, 4)
    pen.rectangle((25, 54, 75, 82), GLOW, 3)


def _apple(pen: Pen) -> None:
    pen.ellipse((10, 26, 60, 94), pen.body)
    pen.ellipse((40, 26, 90, 94), pen.body)
    pen.ellipse((18, 38, 34, 60), pen.light)
    pen.line([(50, 32), (54, 8)], 6, WOOD)
    pen.polygon([(54, 18), (70, 4), (86, 8), (74, 22)], LEAF)


def _bowl(pen: Pen) -> None:
    pen.pie((8, 2, 92, 86), 0, 180, pen.body)
    pen.rectangle((34, 80, 66, 92), pen.dark, 3)
    pen.ellipse((8, 32, 92, 56), pen.light)
    pen.ellipse((15, 36, 85, 53), CREAM)
    pen.ring((22, 0, 78, 76), 6, pen.dark, 35, 145)


def _pot(pen: Pen) -> None:
    _bowl(pen)
    pen.pie((6, 14, 94, 82), 180, 360, pen.dark)
    pen.rectangle((4, 44, 96, 54), INK, 4)
    pen.ellipse((40, 2, 60, 22), INK)


# Street


def _car(pen: Pen) -> None:
    pen.polygon([(24, 50), (36, 22), (68, 22), (82, 50)], pen.body)
    pen.polygon([(32, 48), (40, 29), (51, 29), (51, 48)], GLASS)
    pen.polygon([(56, 48), (56, 29), (65, 29), (74, 48)], GLASS)
    pen.rectangle((4, 46, 96, 74), pen.body, 9)
    pen.rectangle((4, 62, 96, 74), pen.dark, 5)
    pen.ellipse((86, 50, 96, 60), GLOW)
    for x in (26, 74):
        pen.ellipse((x - 14, 60, x + 14, 88), INK)
        pen.ellipse((x - 6, 68, x + 6, 80), STEEL)


def _poster(pen: Pen) -> None:
    pen.rectangle((12, 6, 88, 62), pen.body, 5)
    pen.rectangle((20, 14, 80, 54), CREAM, 2)
    pen.polygon([(28, 28), (52, 28), (52, 19), (72, 34), (52, 49), (52, 40), (28, 40)], pen.dark)


def _sign(pen: Pen) -> None:
    pen.rectangle((43, 60, 57, 96), INK)
    _poster(pen)


def _bike(pen: Pen) -> None:
    for x in (24, 76):
        pen.ring((x - 22, 46, x + 22, 90), 6, INK)
    for line in ([(24, 68), (40, 36), (68, 36), (76, 68)], [(40, 36), (50, 68), (24, 68)], [(50, 68), (68, 36)]):
        pen.line(line, 6, pen.body)
    pen.line([(30, 30), (46, 30)], 7, INK)
    pen.line([(68, 36), (64, 22), (80, 22)], 6, INK)


def _helmet(pen: Pen) -> None:
    pen.pie((10, 16, 90, 108), 180, 360, pen.body)
    pen.rectangle((10, 58, 90, 74), pen.body, 3)
    for x in (30, 50, 70):
        pen.line([(x, 32 if x == 50 else 40), (x, 56)], 7, INK)
    pen.line([(22, 74), (50, 92), (78, 74)], 5, INK)


def _hat(pen: Pen) -> None:
    pen.pie((20, 16, 80, 108), 180, 360, pen.body)
    pen.rectangle((20, 52, 80, 66), INK)
    pen.ellipse((2, 58, 98, 82), pen.body)
    pen.ellipse((14, 62, 86, 72), pen.dark)
    pen.rectangle((20, 50, 80, 66), INK)


def _tree(pen: Pen) -> None:
    pen.rectangle((42, 62, 58, 96), WOOD)
    for box in ((8, 30, 56, 76), (44, 30, 92, 76), (22, 4, 78, 58)):
        pen.ellipse(box, pen.body)
    for box in ((28, 14, 48, 32), (18, 42, 34, 56), (58, 40, 76, 56)):
        pen.ellipse(box, pen.light)


def _table(pen: Pen) -> None:
    pen.rectangle((4, 50, 96, 64), pen.body, 3)
    for x in (18, 82):
        pen.rectangle((x - 6, 62, x + 6, 94), pen.dark, 2)


def _bench(pen: Pen) -> None:
    for x in (18, 82):
        pen.rectangle((x - 5, 10, x + 5, 60), pen.dark, 2)
    for y in (12, 30):
        pen.rectangle((6, y, 94, y + 11), pen.body, 3)
    _table(pen)


# Bedroom


def _bed(pen: Pen) -> None:
    pen.rectangle((2, 14, 12, 92), WOOD, 3)
    pen.rectangle((88, 42, 98, 92), WOOD, 3)
    pen.rectangle((8, 52, 92, 78), pen.body, 4)
    pen.rectangle((8, 70, 92, 80), pen.dark, 3)
    pen.rectangle((14, 36, 42, 56), CREAM, 8)
    pen.polygon([(44, 46), (92, 46), (92, 66), (44, 66)], pen.body)
    pen.line([(46, 50), (46, 66)], 4, pen.light)


def _lamp(pen: Pen) -> None:
    pen.rectangle((46, 50, 54, 86), INK)
    pen.ellipse((26, 80, 74, 96), INK)
    pen.polygon([(32, 6), (68, 6), (90, 56), (10, 56)], pen.body)
    pen.polygon([(10, 56), (90, 56), (87, 47), (13, 47)], pen.dark)
    pen.polygon([(36, 12), (46, 12), (38, 44), (24, 44)], pen.light)


def _lantern(pen: Pen) -> None:
    pen.ring((30, 0, 70, 40), 7, INK)
    pen.rectangle((20, 72, 80, 94), INK, 4)
    pen.rectangle((24, 44, 76, 76), GLOW)
    pen.rectangle((46, 44, 54, 76), INK)
    pen.polygon([(34, 22), (66, 22), (90, 48), (10, 48)], pen.body)


def _book(pen: Pen) -> None:
    pen.polygon([(2, 26), (48, 34), (48, 92), (2, 82)], pen.body)
    pen.polygon([(98, 26), (52, 34), (52, 92), (98, 82)], pen.body)
    pen.polygon([(8, 16), (48, 28), (48, 84), (8, 72)], CREAM)
    pen.polygon([(92, 16), (52, 28), (52, 84), (92, 72)], CREAM)
    pen.rectangle((47, 26, 53, 92), pen.dark)
    for y in (32, 44, 56):
        pen.line([(16, y), (40, y + 8)], 3, (150, 146, 136))
        pen.line([(84, y), (60, y + 8)], 3, (150, 146, 136))


def _dial(pen: Pen) -> None:
    pen.ellipse((14, 14, 86, 86), pen.body)
    pen.ellipse((24, 24, 76, 76), CREAM)
    pen.line([(50, 32), (50, 50), (64, 56)], 7, INK)


def _clock(pen: Pen) -> None:
    for x, y in ((26, 92), (74, 92)):
        pen.line([(50, 56), (x, y)], 8, INK)
    for x in (22, 78):
        pen.ellipse((x - 16, 4, x + 16, 36), pen.dark)
    _dial(pen)


def _watch(pen: Pen) -> None:
    pen.rectangle((32, 0, 68, 100), pen.dark, 4)
    _dial(pen)


def _rug(pen: Pen) -> None:
    for y in (30, 40, 50, 60, 70):
        pen.line([(3, y), (97, y)], 4, CREAM)
    pen.rectangle((12, 22, 88, 78), pen.body)
    pen.rectangle((20, 30, 80, 70), pen.light)
    pen.polygon([(50, 32), (74, 50), (50, 68), (26, 50)], pen.dark)


def _stool(pen: Pen) -> None:
    for top, foot in ((34, 20), (66, 80)):
        pen.line([(top, 52), (foot, 92)], 9, pen.dark)
    pen.line([(28, 76), (72, 76)], 6, pen.dark)
    pen.ellipse((16, 42, 84, 62), pen.body)


def _chair(pen: Pen) -> None:
    for x in (24, 76):
        pen.line([(x, 8), (x, 54)], 9, pen.dark)
    pen.rectangle((20, 4, 80, 24), pen.body, 5)
    _stool(pen)


# Garden


def _fence(pen: Pen) -> None:
    for y in (42, 72):
        pen.rectangle((0, y, 100, y + 9), pen.dark)
    for x in (6, 30, 54, 78):
        pen.polygon([(x, 26), (x + 8, 12), (x + 16, 26), (x + 16, 94), (x, 94)], pen.body)


def _door(pen: Pen) -> None:
    pen.rectangle((18, 30, 82, 96), pen.dark, 2)
    pen.pie((18, 2, 82, 66), 180, 360, pen.dark)
    pen.rectangle((25, 32, 75, 96), pen.body)
    pen.pie((25, 9, 75, 59), 180, 360, pen.body)
    pen.ellipse((60, 56, 72, 68), GLOW)


def _gate(pen: Pen) -> None:
    _door(pen)
    for x in (31, 46, 61):
        pen.rectangle((x, 22, x + 8, 94), INK)


def _rose(pen: Pen) -> None:
    pen.line([(50, 50), (50, 96)], 6, LEAF)
    pen.polygon([(50, 84), (66, 62), (88, 62), (74, 80)], LEAF)
    pen.polygon([(50, 90), (34, 70), (12, 70), (26, 88)], LEAF)
    for box in ((20, 16, 52, 50), (48, 16, 80, 50), (32, 2, 68, 36), (30, 28, 70, 62)):
        pen.ellipse(box, pen.body)
    pen.ellipse((36, 20, 64, 48), pen.dark)
    pen.ellipse((43, 27, 57, 41), pen.light)


def _fly(pen: Pen) -> None:
    pen.ellipse((24, 6, 54, 50), GLASS)
    pen.ellipse((50, 6, 80, 50), GLASS)
    pen.ellipse((10, 34, 78, 82), pen.body)
    pen.ellipse((66, 40, 94, 70), INK)
    for x in (30, 44, 58):
        pen.line([(x, 78), (x - 4, 94)], 4, INK)


def _bee(pen: Pen) -> None:
    _fly(pen)
    for left, top, bottom in ((22, 44, 72), (38, 38, 79), (54, 38, 79)):
        pen.rectangle((left, top, left + 8, bottom), INK)


def _pond(pen: Pen) -> None:
    pen.ellipse((2, 26, 98, 84), (120, 112, 96))
    pen.ellipse((8, 32, 92, 78), pen.body)
    pen.ellipse((22, 40, 54, 50), pen.light)
    pen.pie((48, 52, 80, 72), 40, 340, LEAF)


def _duck(pen: Pen) -> None:
    pen.polygon([(74, 38), (98, 44), (74, 52)], (242, 140, 40))
    pen.polygon([(6, 44), (30, 62), (10, 72)], pen.body)
    pen.ellipse((10, 46, 78, 92), pen.body)
    pen.ellipse((46, 22, 82, 58), pen.body)
    pen.pie((24, 50, 62, 84), 0, 180, pen.dark)
    pen.ellipse((64, 32, 71, 39), INK)


def _goose(pen: Pen) -> None:
    pen.polygon([(80, 10), (100, 18), (80, 24)], (242, 140, 40))
    pen.polygon([(2, 50), (26, 64), (6, 76)], pen.body)
    pen.ellipse((6, 52, 74, 92), pen.body)
    pen.line([(62, 70), (66, 46), (72, 18)], 15, pen.body)
    pen.ellipse((60, 4, 86, 30), pen.body)
    pen.pie((20, 54, 58, 86), 0, 180, pen.dark)
    pen.ellipse((73, 11, 80, 18), INK)


COLOURS_OF: Mapping[str, tuple[str, ...]] = {
    "cup": ("red", "blue", "white"), "plate": ("white", "teal", "yellow"), "saucer": ("white", "teal", "yellow"),
    "kettle": ("red", "grey", "teal"), "stove": ("white", "grey", "green"), "oven": ("white", "grey", "green"),
    "apple": ("red", "green", "yellow"), "bowl": ("blue", "orange", "green"), "pot": ("blue", "orange", "green"),
    "car": ("red", "blue", "yellow"), "sign": ("blue", "red", "green"), "poster": ("blue", "red", "green"),
    "bike": ("red", "teal", "purple"), "helmet": ("orange", "blue", "pink"), "hat": ("orange", "blue", "pink"),
    "tree": ("green", "orange", "yellow"), "bench": ("brown", "green", "red"), "table": ("brown", "green", "red"),
    "bed": ("pink", "blue", "green"), "lamp": ("yellow", "red", "teal"), "lantern": ("yellow", "red", "teal"),
    "book": ("blue", "red", "purple"), "clock": ("red", "grey", "teal"), "watch": ("red", "grey", "teal"),
    "rug": ("red", "purple", "teal"), "chair": ("brown", "orange", "blue"), "stool": ("brown", "orange", "blue"),
    "fence": ("white", "brown", "green"), "gate": ("brown", "red", "teal"), "door": ("brown", "red", "teal"),
    "rose": ("red", "pink", "yellow"), "bee": ("yellow", "orange", "grey"), "fly": ("yellow", "orange", "grey"),
    "pond": ("blue", "teal", "grey"), "duck": ("yellow", "white", "brown"), "goose": ("yellow", "white", "brown"),
}  # fmt: skip
"""Object → the colours that it may have. Most are shared by several objects, so that shape has to tell them apart."""

_DRAWINGS: Mapping[str, Callable[[Pen], None]] = {name: globals()[f"_{name}"] for name in COLOURS_OF}


# Settings: pale, so that objects stand out


def _kitchen(pen: Pen) -> None:
    pen.rectangle((0, 0, 100, 58), (236, 228, 210))
    for y in (14, 29, 44):
        pen.line([(0, y), (100, y)], 0.8, (222, 212, 192))
    for x in range(10, 100, 16):
        pen.line([(x, 0), (x, 58)], 0.8, (222, 212, 192))
    pen.rectangle((0, 58, 100, 64), (204, 186, 160))
    pen.rectangle((0, 64, 100, 100), (222, 206, 182))
    for x in (2, 35, 68):
        pen.rectangle((x, 68, x + 30, 100), (212, 195, 170), 2)


def _street(pen: Pen) -> None:
    pen.rectangle((0, 0, 100, 62), (208, 222, 236))
    for left, top, right, colour in ((0, 24, 26, 206), (28, 8, 54, 198), (56, 32, 76, 210), (78, 16, 100, 202)):
        pen.rectangle((left, top, right, 62), (colour, colour - 4, colour - 2))
        for x in range(left + 3, right - 6, 8):
            for y in range(top + 5, 56, 11):
                pen.rectangle((x, y, x + 4, y + 6), (216, 222, 226))
    pen.rectangle((0, 62, 100, 72), (192, 192, 190))
    pen.rectangle((0, 72, 100, 100), (166, 168, 174))
    for x in range(4, 100, 24):
        pen.rectangle((x, 85, x + 12, 88), (214, 214, 208))


def _bedroom(pen: Pen) -> None:
    pen.rectangle((0, 0, 100, 70), (230, 220, 232))
    for x in range(4, 100, 12):
        pen.line([(x, 0), (x, 70)], 1.2, (220, 208, 224))
    pen.rectangle((36, 8, 64, 46), (212, 204, 200))
    pen.rectangle((39, 11, 61, 43), (214, 230, 240))
    pen.line([(50, 11), (50, 43)], 1.5, (212, 204, 200))
    pen.rectangle((0, 68, 100, 72), (206, 194, 190))
    pen.rectangle((0, 72, 100, 100), (208, 186, 164))
    for y in (81, 91):
        pen.line([(0, y), (100, y)], 0.8, (194, 172, 150))


def _garden(pen: Pen) -> None:
    pen.rectangle((0, 0, 100, 60), (210, 230, 240))
    pen.ellipse((76, 4, 92, 20), (246, 234, 190))
    for x in range(-10, 100, 22):
        pen.ellipse((x, 36, x + 34, 74), (176, 206, 166))
    pen.rectangle((0, 58, 100, 100), (190, 216, 164))
    for x in range(4, 100, 13):
        for y in (68, 82, 94):
            pen.line([(x + y % 5, y), (x + 2 + y % 5, y - 4)], 0.8, (168, 198, 142))


_SETTINGS: Mapping[str, Callable[[Pen], None]] = {
    "kitchen": _kitchen, "street": _street, "bedroom": _bedroom, "garden": _garden,
}  # fmt: skip


@cache
def setting_pixels(setting: str, size: int) -> NDArray[np.float32]:
    """Returns the picture of an empty setting, (size, size, 3), from 0 to 255; a KeyError for no setting."""
    pen = Pen(CREAM)
    _SETTINGS[setting](pen)
    pixels = np.asarray(pen.image.convert("RGB").resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    pixels.flags.writeable = False
    return pixels


def draw_object(name: str, colour: str, size: int, turn: int = 0, *, is_mirrored: bool = False) -> Image.Image:
    """Returns an RGBA picture of `size` × `size` pixels, transparent around the object; a KeyError for no object."""
    return _draw_turned(name, colour, turn, is_mirrored).resize((size, size), Image.Resampling.BOX)


@cache
def object_pixels(
    name: str, colour: str, turn: int, is_mirrored: bool, sizes: tuple[int, ...]
) -> Mapping[int, NDArray[np.uint8]]:
    """Returns an object's picture in each of `sizes`, (size, size, 4): red, green, blue and opacity.

    All sizes cost little more than one, for turning costs most.
    """
    weighed = _draw_turned(name, colour, turn, is_mirrored).convert("RGBa")  # once, as Pillow does for every size
    made = {size: weighed.resize((size, size), Image.Resampling.BOX) for size in sizes}
    return {size: np.asarray(picture.convert("RGBA")) for size, picture in made.items()}


def _draw_turned(name: str, colour: str, turn: int, is_mirrored: bool) -> Image.Image:
    drawing = _draw_large(name, colour)
    if is_mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return drawing.rotate(turn, Image.Resampling.BICUBIC) if turn else drawing


@cache
def _draw_large(name: str, colour: str) -> Image.Image:
    pen = Pen(COLOURS[colour])
    _DRAWINGS[name](pen)
    # Room for the outline, and for the corners when it is turned.
    margin = round(0.07 * CANVAS)
    inner = pen.image.resize((CANVAS - 2 * margin,) * 2, Image.Resampling.BOX)
    drawing = Image.new("RGBA", (CANVAS, CANVAS))
    drawing.paste(inner, (margin, margin))
    outline = Image.new("RGBA", drawing.size, (*INK, 255))
    outline.putalpha(Image.fromarray(_widen(np.asarray(drawing.getchannel("A")), OUTLINE)))
    return Image.alpha_composite(outline, drawing)


def _widen(opacity: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Returns for every place the most of all places that are at most so many pixels away along either axis."""
    for axis in (0, 1):
        lines = np.moveaxis(opacity.copy(), axis, 0)
        for _ in range(pixels):
            before = lines.copy()
            np.maximum(lines[1:], before[:-1], out=lines[1:])
            np.maximum(lines[:-1], before[1:], out=lines[:-1])
        opacity = np.moveaxis(lines, 0, axis)
    return np.ascontiguousarray(opacity)
