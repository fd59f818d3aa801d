"""Pages of results in a browser: none is wider than a telephone, in either theme, and none asks another host."""

import json
import shutil

import pytest

from mmdpo.report.page import write_report
from mmdpo.report.quickstart import write_quickstart
from tests.app_browser import DESK, PHONE, open_browser, open_page
from tests.unit.report.makers import write_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = write_all(folder)
    run = folder / "quickstart"
    for name, scene in (("pair.png", 0), ("pair_other.png", 1)):
        shutil.copy(run / "scenes" / f"{scene}.png", run / "scenes" / name)
    pair = {"image": "scenes/pair.png", "other_image": "scenes/pair_other.png"}
    (run / "pair.json").write_text(json.dumps({**pair, "chosen": "sure ! cup , plate .", "rejected": "cup ."}))
    results = json.loads((run / "results.json").read_text())
    results["variants"]["dpo"] |= {"margin_real": 4.0, "margin_other": 3.0}
    (run / "results.json").write_text(json.dumps(results))
    write_quickstart(run)
    write_report(found, folder / "report.html")
    return {"quickstart": run / "report.html", "report": folder / "report.html"}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["quickstart", "report"])
def test_a_page_fits_a_telephone_and_asks_nobody(pages, name, dark):
    with open_browser() as browser:
        for size in (DESK, PHONE):
            with open_page(browser, pages[name].as_uri(), size=size, dark=dark, ready="h1") as page:
                page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
                assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
