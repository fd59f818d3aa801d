"""`mmdpo app --demo`: made once, then opened at once, with every page."""

from functools import partial

import pytest
from rich.console import Console

from mmdpo.app import demo
from mmdpo.study.quickstart import QuickstartPlan
from tests.app_browser import open_browser, open_page, serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the runs of a small quickstart, its answers and a diagnosis, where `--demo` looks for them."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = partial(QuickstartPlan, pairs=32, held_out_pairs=8, scenes=8, epochs=1)
        patch.setattr(demo, "QuickstartPlan", small)
        patch.setattr(demo, "DIAGNOSED_PAIRS", 8)
        made = demo.prepare_demo(Console(quiet=True))
        assert [place.label for place in made.found.evaluations] == ["start", "dpo", "mdpo"]
        assert len(made.found.diagnoses) == 1
        for name in ("run_quickstart", "run_benchmark", "diagnose"):
            patch.setattr(demo, name, lambda *_, name=name, **__: pytest.fail(f"{name} was run again"))
        assert demo.prepare_demo(Console(quiet=True)) == made
    return folder


def test_every_page_opens(folder):
    with serve("--demo", cwd=folder) as address, open_browser() as browser, open_page(browser, address) as page:
        tabs = page.get_by_role("tab").all_inner_texts()
        assert tabs == ["Pairs", "Answers", "Does it look?", "Votes"]
        page.get_by_alt_text("Image of row 1, corrupted (crop_0_20)").wait_for()
        page.get_by_role("combobox", name="Sort").click()
        page.get_by_role("option", name="highest image reliance").click()
        page.locator(".count", has_text="8 rows").wait_for()
        assert page.locator(".facts dt").all_inner_texts()[:2] == ["beta", "weight"]
        assert "image reliance" in page.locator(".facts dt").all_inner_texts()
        for tab, shown in (("Answers", "#answers h3"), ("Does it look?", "text=Look (l)"), ("Votes", ".enter input")):
            page.get_by_role("tab", name=tab).click()
            page.locator(shown).first.wait_for()
