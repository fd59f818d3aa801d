"""Draws the pictures of docs/world.md: `python docs/world/pictures.py`.

objects.png  every object in its three colours, at 18 pixels, the smallest size used, three times enlarged
sizes.png    every object at 18 and at 36 pixels as the worlds show it, not enlarged
scenes.png   three test scenes of each world
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmdpo.world import LARGE, SMALL
from mmdpo.world.drawings import COLOURS_OF, TURNS, draw_object
from mmdpo.world.scenes import draw_test_scenes, render

HERE = Path(__file__).parent
PAPER = (222, 212, 196)
FONT = ImageFont.load_default(13)


def draw_sheet(sizes: tuple[int, ...], zoom: int, columns: int) -> Image.Image:
    """Draws every object of the large world, in one colour for each of the sizes and turns."""
    shown = [(name, place) for name in LARGE.objects for place in range(3 if len(sizes) == 1 else len(sizes))]
    width, height = max(sizes) * zoom + 14, max(sizes) * zoom + 24
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (name, place) in enumerate(shown):
        size, colours = sizes[place % len(sizes)], COLOURS_OF[name]
        icon = draw_object(name, colours[place % 3], size, TURNS[number % 5], is_mirrored=bool(number % 2))
        icon = icon.resize((size * zoom, size * zoom), Image.Resampling.NEAREST)
        left, top = number % columns * width + 7, number // columns * height + 4
        sheet.paste(icon, (left, top), icon)
        draw.text((left, top + max(sizes) * zoom), name, fill=(40, 36, 30), font=FONT)
    return sheet


def draw_scenes() -> Image.Image:
    """Draws three scenes of each world in settings that differ, enlarged to the same size."""
    side, gap = 288, 10
    sheet = Image.new("RGB", (3 * side + 2 * gap, 2 * side + gap), "white")
    for row, world in enumerate((SMALL, LARGE)):
        scenes = [scene for scene in draw_test_scenes(60, 0, world) if len(scene.objects) >= 4]
        by_setting = {scene.setting: scene for scene in reversed(scenes)}
        settings = list(world.settings)[-3:]
        for column, setting in enumerate(settings):
            picture = render(by_setting[setting]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * (side + gap), row * (side + gap)))
    return sheet


if __name__ == "__main__":
    draw_sheet((18,), 3, 12).save(HERE / "objects.png")
    draw_sheet((18, 36), 1, 18).save(HERE / "sizes.png")
    draw_scenes().save(HERE / "scenes.png")
