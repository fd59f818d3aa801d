"""The page "Does it look?" in a browser, on the embedded world: colours, comparisons, uploads, errors, keys, sizes."""

import json
import re

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo import score_tokens
from mmdpo.app import look_page
from mmdpo.app.sources import Sources
from mmdpo.data.read import read_dataset
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.records import NO_IMAGE
from mmdpo.world.pairs import make_pairs
from tests import forked
from tests.app_browser import PHONE, open_browser, open_page, serve

HOSTILE = "cup <b>apple</b> <script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    lines = []
    for number, row in enumerate(make_pairs(4, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append({**row, "images": [f"{number}.png"]})
    lines[3] |= {"images": [], "prompt": [{"role": "user", "content": "describe"}]}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "text.png").write_text("this is no picture")
    (folder / "large.png").write_bytes(bytes(21 * 2**20))
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serve("--data", folder / "pairs.jsonl", "--models", "world", cwd=folder, start=forked.start) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    with open_page(browser, address) as page:
        page.get_by_role("tab", name="Does it look?").click()
        yield page


def look_at(page):
    """Presses the button, and waits for what is found now."""
    before = page.locator(".look, .problem").count() and page.locator(".look, .problem").first.inner_text()
    page.get_by_role("button", name="Look (l)").click()
    page.wait_for_function(
        "before => (document.querySelector('.look, .problem')?.innerText ?? before) !== before",
        arg=before or "",
    )


def test_tokens_of_a_pair_have_the_colours_and_values_of_the_library(page, folder):
    look_at(page)
    start = resolve_start("world")
    example = read_dataset(folder / "pairs.jsonl")[0]
    expected = score_tokens(load_model(start), load_processor(start), example, against=[NO_IMAGE])
    for answer in expected[:2]:
        shown = page.locator(f".answer.{answer.name} .token")
        values = [
            float(title.removesuffix(" nats").replace("−", "-"))
            for title in (each.get_attribute("title") for each in shown.all())
        ]
        assert values == pytest.approx(answer.reliance().tolist(), abs=0.006)
        strong = shown.nth(max(range(len(values)), key=lambda place: values[place]))
        colours = {0.5: "rgb(182, 212, 253)", 1.0: "rgb(134, 184, 251)", 2.0: "rgb(91, 157, 245)"}
        colour = colours[max(least for least in colours if max(values) >= least)]
        assert strong.evaluate("e => getComputedStyle(e).backgroundColor") == colour
    assert page.locator(".look figure img").count() == 1
    assert page.get_by_text("world is in memory").is_visible()


def test_values_are_shown_at_a_click_and_stand_in_the_page_for_readers_who_do_not_see(page):
    look_at(page)
    value = page.locator(".look .nats").first
    assert re.fullmatch(r"[+−]\d+\.\d\d", value.text_content().strip())
    assert value.bounding_box()["width"] <= 1
    page.get_by_label("show the values").check()
    assert value.bounding_box()["width"] > 10


def test_it_is_compared_with_a_corrupted_and_with_another_image(page):
    page.get_by_label("the corrupted image").check()
    page.get_by_label("corruption_options").fill('{"low": 0.3, "high": 0.4}')
    look_at(page)
    captions = page.locator(".look figcaption").all_inner_texts()
    assert captions == ["image, 96 × 96", "corrupted: crop_0_20, 96 × 96"]
    assert "with the corrupted image" in page.locator(".look table").inner_text()
    page.get_by_label("another image").check()
    page.get_by_label("Its row").fill("3")
    look_at(page)
    assert page.locator(".look figcaption").all_inner_texts() == ["image, 96 × 96", "another image, 96 × 96"]
    assert all(page.locator(".look img").evaluate_all("all => all.map(each => each.alt)"))


def test_a_picture_is_uploaded_and_what_is_typed_stays_text(page, folder):
    page.get_by_label("a picture of your own").check()
    page.locator("input[type=file]").first.set_input_files(folder / "1.png")
    page.get_by_text("1.png is ready").wait_for()
    page.get_by_label("Question").fill("describe")
    page.get_by_label("Answer", exact=True).fill(HOSTILE)
    look_at(page)
    said = page.locator(".look .answer .said").first
    assert said.evaluate(
        "e => [...e.querySelectorAll('.nats')].forEach(each => each.remove()) || e.innerText"
    ).startswith(HOSTILE)
    assert page.title() == "mmdpo"
    assert page.get_by_alt_text("Image of the uploaded picture").is_visible()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("99", "there is no row 99: pairs.jsonl has 4"),
        ("4", "row 4: it has no image, so that nothing can depend on one"),
    ],
)
def test_a_row_that_cannot_be_looked_at_says_why_in_a_line(page, row, said):
    page.get_by_label("Row", exact=True).fill(row)
    look_at(page)
    problem = page.locator(".problem")
    assert said in problem.inner_text()
    assert "\n" not in problem.inner_text()


def test_a_picture_that_is_missing_or_none_is_said_to_be(page, folder):
    page.get_by_label("a picture of your own").check()
    look_at(page)
    assert page.locator(".problem").inner_text() == "there is no picture: upload one"
    page.locator("input[type=file]").first.set_input_files(folder / "text.png")
    page.get_by_text("the uploaded picture cannot be used: ").first.wait_for()
    assert str(folder) not in page.locator("body").inner_text()


def test_a_picture_of_more_bytes_than_are_taken_is_refused(browser, address, folder):
    page = browser.new_page()  # Gradio itself says an error in the console here, about the progress of the upload
    page.goto(address)
    page.get_by_role("tab", name="Does it look?").click()
    page.get_by_label("a picture of your own").check()
    page.locator("input[type=file]").first.set_input_files(folder / "large.png")
    page.get_by_text('exceed the maximum allowed size of 20.0 Mb: "large.png"').first.wait_for()
    page.close()


def test_a_model_without_an_adapter_has_none_to_take_off(page):
    page.get_by_label("Beside it").click()
    page.get_by_role("option", name="the same without its adapter").click()
    look_at(page)
    assert "world has no adapter to take off" in page.locator(".problem").inner_text()


def test_the_page_is_there_where_a_model_is():
    assert look_page.is_wanted(Sources(models=("world",)))
    assert not look_page.is_wanted(Sources())


def test_on_a_phone_in_the_dark_with_the_keyboard_alone(browser, address):
    with open_page(browser, address, size=PHONE, dark=True) as page:
        page.get_by_role("tab", name="Does it look?").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Look (l)").wait_for()
        page.keyboard.press("l")
        page.locator(".look table").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        strong = page.locator(".answer .up-4, .answer .up-3").first
        colours = strong.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
        assert colours[0] == "rgb(230, 232, 235)"
        assert colours[1] in ("rgb(26, 77, 134)", "rgb(29, 92, 163)")
