"""`mmdpo app --demo`: made once, then opened at once, with every page."""

import json
import re
from collections import Counter
from functools import partial

import pytest
from rich.console import Console

from mmdpo.app import demo
from mmdpo.cli import main
from mmdpo.study.quickstart import QuickstartPlan
from tests import forked
from tests.app_browser import open_browser, open_page, serve

pytestmark = pytest.mark.slow
ROWS = 64
"""Pairs of the embedded world, of 768: a page of the demo shows 25 at once."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the runs of a small quickstart, its answers and a diagnosis, where `--demo` looks for them."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = partial(QuickstartPlan, pairs=32, held_out_pairs=8, scenes=8, epochs=1)
        patch.setattr(demo, "QuickstartPlan", small)
        patch.setattr(demo, "DIAGNOSED_PAIRS", 8)
        patch.setattr("mmdpo.data.examples.WORLD_SPLITS", {"train": (ROWS, "preference"), "test": (ROWS, "held-out")})
        parse = demo.parse_options
        patch.setattr(demo, "parse_options", lambda kind, words, verb: parse(kind, [*words, "--limit=12"], verb))
        made = demo.prepare_demo(Console(quiet=True))
        assert [place.label for place in made.found.evaluations] == ["start", "dpo", "mdpo"]
        assert len(made.found.diagnoses) == 1
        for name in ("run_quickstart", "run_benchmark", "diagnose"):
            patch.setattr(demo, name, lambda *_, name=name, **__: pytest.fail(f"{name} was run again"))
        assert demo.prepare_demo(Console(quiet=True)) == made
    # Trained on so few pairs, the models say what the start says; with a word more there is something to vote on.
    for name, word in zip(demo.SHOWN, ("well", "so"), strict=True):
        answers = folder / demo.DEMO / name / "answers.jsonl"
        answers.write_text(answers.read_text().replace('"answer": "', f'"answer": "{word} '))
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serve("--demo", cwd=folder, start=forked.start, env={forked.WORLD_ROWS: str(ROWS)}) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def test_every_page_opens(browser, address):
    with open_page(browser, address) as page:
        tabs = page.get_by_role("tab").all_inner_texts()
        assert tabs == ["Pairs", "Answers", "Does it look?", "Votes"]
        page.get_by_alt_text("Image of row 1, corrupted (crop_0_20)").wait_for()
        page.get_by_role("combobox", name="Sort").click()
        page.get_by_role("option", name="highest image reliance").click()
        page.locator(".count", has_text="8 rows").wait_for()
        page.locator(".facts dt", has_text="image reliance").wait_for()
        assert page.locator(".facts dt").all_inner_texts()[:2] == ["beta", "weight"]
        for tab, shown in (("Answers", "#answers h3"), ("Does it look?", "text=Look (l)"), ("Votes", ".enter input")):
            page.get_by_role("tab", name=tab).click()
            page.locator(shown).first.wait_for()


def test_three_raters_vote_on_the_demo_s_runs_and_the_report_says_what_they_chose(folder, browser, address, tmp_path):
    keys, names = ("ArrowLeft", "ArrowRight", "ArrowDown", "b"), ("anna", "ben", "cleo")
    cast = Counter()
    pages = [browser.new_context().new_page() for _ in names]
    for page, name in zip(pages, names, strict=True):
        page.goto(address)
        page.get_by_role("tab", name="Votes").click()
        page.get_by_label("Your name").fill(name)
        page.keyboard.press("Enter")
        page.locator("#vote .beside").wait_for()
    for turn in range(4):
        for page in pages:  # none waits for another one
            page.keyboard.press(keys[turn])
        for page, name in zip(pages, names, strict=True):
            page.locator("#vote .progress", has_text=f"{turn + 1} of").wait_for()
            cast[name, keys[turn]] += 1
            shown = re.sub(r'"data:image/[^"]*"', "", page.locator("#vote").inner_html())  # where any letters may be
            assert not re.search("dpo|start", shown)
    assert main(["votes", "report", str(folder / demo.DEMO / "votes.sqlite"), "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "votes.json").read_text())
    assert content["runs"] == ["start", "dpo", "mdpo"]
    assert content["votes"] == 12
    for row in content["raters"]:
        assert [row[choice] for choice in ("left", "right", "tie", "both_bad")] == [
            cast[row["rater"], key] for key in keys
        ]
    whole = [row["counts"] for row in content["results"] if row["type"] is None]
    assert sum(row["tie"] for row in whole) == sum(row["both_bad"] for row in whole) == 3
    assert sum(row["win"] + row["lose"] for row in whole) == 6
