"""Colours of the app's own style sheet can be read, light and dark: 4.5 to 1 at least (WCAG 2.2, 1.4.3)."""

import re
from importlib.resources import files

import pytest

TEXT_ON = [
    (ink, ground)
    for ink in ("ink", "soft", "chosen", "rejected", "flagged")
    for ground in ("paper", "panel", "current")
] + [("ink", "own"), ("ink", "wrong"), ("ink", "page"), ("soft", "page")]  # fmt: skip
"""Which colours stand on which; `page` is Gradio's own ground."""
PAGE = {"light": "#ffffff", "dark": "#0f0f11"}


def colours(mode):
    style = (files("mmdpo.app") / "style.css").read_text(encoding="utf-8")
    block = re.search((r":root" if mode == "light" else r"\.dark") + r" \{(.*?)\}", style, re.S)[1]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) | {"page": PAGE[mode]}


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT_ON)
def test_text_can_be_read(mode, ink, ground):
    found = colours(mode)
    assert contrast(found[ink], found[ground]) >= 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_what_has_the_focus_is_seen(mode):
    found = colours(mode)
    assert all(contrast(found["accent"], found[ground]) >= 3 for ground in ("paper", "panel", "page", "current"))


def test_dark_has_a_colour_for_each_of_light():
    assert colours("light").keys() == colours("dark").keys()
