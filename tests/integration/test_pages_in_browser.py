"""Pages of results in a browser: none is wider than a telephone, in either theme, and none asks another host."""

import itertools
import json
import shutil

import pytest

from mmdpo.report.page import write_report
from mmdpo.report.quickstart import write_quickstart
from tests.app_browser import DESK, PHONE, open_browser, open_page
from tests.unit.report.makers import write_all, write_trained

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


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["quickstart", "report"])
def test_a_page_fits_a_telephone_and_asks_nobody(browser, pages, name, dark):
    for size in (DESK, PHONE):
        with open_page(browser, pages[name].as_uri(), size=size, dark=dark, ready="h1") as page:
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_curves_are_smoothed_and_laid_on_a_log_scale_and_keep_their_values(browser, tmp_path):
    run = write_trained(tmp_path / "run")
    losses = [2.0**-step for step in range(12)]
    history = [{"step": step, "loss": loss, "rewards/margins": step - 4} for step, loss in enumerate(losses)]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    write_report([run], tmp_path / "report.html")
    line = """plot.querySelector("[id$=line0] > path:not(.raw)").getAttribute("d")"""
    points_of = f"plot => {line}.match(/-?[\\d.]+/g).map(Number)"
    with open_page(browser, (tmp_path / "report.html").as_uri(), ready="h1") as page:
        margins, loss = page.locator(".plot").all()[:2]
        before = margins.evaluate(points_of)
        page.get_by_role("checkbox", name="log scale").check()
        heights = loss.evaluate(points_of)[1::2]
        steps = [after - before for before, after in itertools.pairwise(heights)]
        assert steps == pytest.approx([steps[0]] * 11, abs=0.05)  # half as much each time: a straight line
        assert loss.locator(".ticks text").all_text_contents() == ["0.001", "0.01", "0.1", "1"]
        assert not loss.locator("[id*=ytick_]").first.is_visible()
        assert margins.evaluate(points_of) == before  # negative ones among them
        assert margins.locator("[id*=ytick_]").first.is_visible()
        page.get_by_role("slider", name="smoothing").fill("0.5")
        assert loss.locator(".raw").count() == 1
        loss.focus()
        loss.press("ArrowRight")
        loss.press("ArrowRight")
        assert loss.locator(".values").inner_text().split("\n")[:2] == [
            "step 1: logged (smoothed)",
            "0.5 (0.6667) Loss",
        ]
        page.get_by_role("slider", name="smoothing").fill("0")
        page.get_by_role("checkbox", name="log scale").uncheck()
        assert margins.evaluate(points_of) == before
        assert loss.locator(".raw").count() == 0


def test_values_under_the_pointer_have_no_digit_that_is_not_drawn(browser, tmp_path):
    """Two runs of which one is flat at 0 beside the other's hundred, at steps of five digits."""
    runs = [write_trained(tmp_path / name) for name in ("steep", "flat")]
    for run, share in zip(runs, (1, 0), strict=True):
        history = [{"step": step, "rewards/accuracies": share * (step - 12345) / 10} for step in range(12345, 12356)]
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    write_report(runs, tmp_path / "report.html")
    with open_page(browser, (tmp_path / "report.html").as_uri(), ready="h1") as page:
        (plot,) = page.locator(".plot").all()
        plot.focus()
        plot.press("ArrowLeft")
        assert plot.locator(".values").inner_text().split("\n") == ["step 12355", "100 steep", "0 flat"]
        plot.press("ArrowLeft")
        assert plot.locator(".values").inner_text().split("\n") == ["step 12354", "90 steep", "0 flat"]
