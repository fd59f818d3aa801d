"""Answers of runs beside each other, in a real browser."""

import pytest

from tests.app_browser import DESK, PHONE, open_browser, open_page, serve
from tests.voted_runs import write_run

ITEMS = 5


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Runs on scenes of the embedded world, and on a benchmark with a judge; a run names a thing too many in item 3."""
    folder, runs = tmp_path_factory.mktemp("runs"), []
    for name, named in (("start", "a cup and a kite"), ("mdpo", "a cup")):
        answers = {f"test-0-{number}": "a cup" for number in range(ITEMS)} | {"test-0-3": named}
        reasons = {item: {"flagged": ["kite"] if "kite" in answer else []} for item, answer in answers.items()}
        runs.append(write_run(folder / name / "world", answers, benchmark="world", reasons=reasons))
        reply = {
            "official": len(name),
            "tolerant": len(name),
            "reply": f"<b>Rated</b> {len(name)}",
            "reference": "A dog.",
        }
        runs.append(write_run(folder / name / "mmhal", {"i": f"<i>{name}</i>"}, reasons={"i": reply}))
    with serve("--runs", folder / "start", folder / "mdpo", cwd=folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def test_one_key_goes_to_the_next_item_and_marks_show_what_is_hallucinated(browser, address):
    with open_page(browser, address) as page:
        answers = page.locator("#answers")
        answers.get_by_text("1 of 1").wait_for()
        page.get_by_label("Benchmark").click()
        page.get_by_role("option", name="world").click()
        answers.get_by_text(f"1 of {ITEMS}").wait_for()
        assert answers.locator("h2").inner_text().split()[-1] == "test-0-3"
        assert answers.locator("h3").all_inner_texts() == ["start", "mdpo"]
        assert answers.locator("mark").all_inner_texts() == ["kite"]
        assert answers.get_by_role("img").get_attribute("alt") == "Image of item test-0-3"
        for key, place in (("j", 2), ("n", 3), ("k", 2), ("p", 1), ("k", 1), ("j", 2)):
            page.keyboard.press(key)
            answers.get_by_text(f"{place} of {ITEMS}").wait_for()
        for key in "jjkjj":  # each is counted, in this order, however fast they come
            page.keyboard.press(key)
        answers.get_by_text(f"{ITEMS} of {ITEMS}").wait_for()

        page.keyboard.press("/")
        page.keyboard.type("kite")
        page.keyboard.press("Enter")
        answers.get_by_text("1 of 1").wait_for()
        page.get_by_label("Search").fill("no such word")
        page.keyboard.press("Enter")
        answers.get_by_text("No item is like that").wait_for()
        page.get_by_label("Search").fill("")
        page.keyboard.press("Enter")
        answers.get_by_text(f"1 of {ITEMS}").wait_for()

        page.get_by_label("Show").click()
        page.get_by_role("option", name="only start is wrong").click()
        answers.get_by_text("1 of 1").wait_for()
        page.get_by_label("Show").click()
        page.get_by_role("option", name="only mdpo is wrong").click()
        answers.get_by_text("No item is like that").wait_for()


def test_another_benchmark_s_ratings_and_replies_are_shown_as_text(browser, address):
    with open_page(browser, address) as page:
        answers = page.locator("#answers")
        answers.get_by_text("rated 5 of 6 by the judge").wait_for()
        for text in ("<i>start</i>", "<i>mdpo</i>", "<b>Rated</b> 4", "Reference answer: A dog."):
            assert answers.get_by_text(text).is_visible()
        assert "the picture is missing" in answers.inner_text()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_nothing_is_wider_than_the_window(browser, address, size):
    with open_page(browser, address, size=size, dark=size == PHONE) as page:
        page.locator("#answers h2").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
