"""Takes the pictures of the app that stand in the docs, from the real app on its demo.

    python -m docs.app.pictures [--cwd FOLDER]    # from the root of the repository; the demo's runs are made in FOLDER

Each page is taken light at the width of a desk, and the page of pairs also dark at that of a phone. A picture that
would be larger than MOST_BYTES is an error.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.app_browser import PHONE, open_browser, open_page, serve

HERE = Path(__file__).parent
DESK = (1280, 860)
MOST_BYTES = 200_000
COLOURS = 224


def show_pairs(page: Any) -> None:
    """A row whose answers differ in an object, with what the diagnosis says of it."""
    page.get_by_role("combobox", name="Only rows that are, or where").click()
    page.get_by_role("option", name="one object differs", exact=True).click()
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Sort").click()
    page.get_by_role("option", name="highest image reliance").click()
    page.locator(".pair img").nth(1).wait_for()
    page.wait_for_timeout(1000)
    page.locator(".rows button").nth(2).click()
    page.wait_for_timeout(1000)


def show_answers(page: Any) -> None:
    """The item where the runs differ most."""
    page.get_by_role("tab", name="Answers").click()
    page.locator(".beside mark").first.wait_for()


def show_look(page: Any) -> None:
    """The tokens of a pair under a trained model, and under what it was trained from."""
    page.get_by_role("tab", name="Does it look?").click()
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="mdpo").first.click()
    page.get_by_label("Beside it").click()
    page.get_by_role("option", name="world", exact=True).first.click()
    page.get_by_role("button", name="Look (l)").click()
    page.locator(".look .token").first.wait_for()


def show_votes(page: Any) -> None:
    """The first item of a rater."""
    page.get_by_role("tab", name="Votes").click()
    page.locator(".enter input, .enter textarea").first.fill("Ann")
    page.keyboard.press("Enter")
    page.locator("#vote .beside").wait_for()


PAGES: dict[str, Callable[[Any], None]] = {
    "pairs": show_pairs,
    "answers": show_answers,
    "look": show_look,
    "votes": show_votes,
}


def take(page: Any, name: str) -> Path:
    """Takes what the window shows as a PNG of few colours; raises ValueError for one that is too large."""
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = HERE / f"{name}.png"
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the most is {MOST_BYTES:,}")
    return path


def main() -> None:
    """Starts the demo, and takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cwd", type=Path, default=Path(), help="folder whose runs/quickstart and runs/demo are used")
    folder = parser.parse_args().cwd
    with serve("--demo", cwd=folder) as address, open_browser() as browser:
        for name, show in PAGES.items():
            with open_page(browser, address, size=DESK) as page:
                show(page)
                print(take(page, name))
        with open_page(browser, address, size=PHONE, dark=True) as page:
            show_pairs(page)
            print(take(page, "pairs-phone"))


if __name__ == "__main__":
    main()
