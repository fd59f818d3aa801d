"""Which row of which dataset a key decides about, without a browser."""

import json

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo.app.pair_index import IN_ORDER
from mmdpo.app.pair_pictures import HowCorrupted
from mmdpo.app.pairs_page import DEFAULT_HOW, _Page, open_views
from mmdpo.app.sources import DatasetSource, Sources

HOW = (DEFAULT_HOW, "crop_0_20", "", 42, 0)


@pytest.fixture
def page(tmp_path):
    for name, count in (("long.jsonl", 9), ("short.jsonl", 3)):
        rows = [{"prompt": f"{name} {n}", "chosen": f"a cup {n}", "rejected": "a dog"} for n in range(1, count + 1)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets = tuple(DatasetSource(str(tmp_path / name)) for name in ("long.jsonl", "short.jsonl"))
    views = open_views(Sources(datasets=datasets, decisions=tmp_path / "decisions.jsonl"))
    for view in views.values():
        view.index.start()
    return _Page(views, {DEFAULT_HOW: HowCorrupted()})


def query(dataset, search="", filters=()):
    return (dataset, search, filters, IN_ORDER, "", *HOW)


def decided(page):
    (decisions,) = {view.decisions for view in page.views.values()}
    return {about: of.decision for about, of in decisions.read().items()}


def test_the_row_that_is_shown_is_decided_about(page):
    place, of, *_, said = page.decide("drop", "no cup", "long.jsonl", 7, *query("long.jsonl"))
    assert (place, of) == (7, "long.jsonl")
    assert "Row 8 is dropped: no cup" in said
    assert decided(page) == {("long.jsonl", 8): "drop"}


def test_a_dataset_that_is_chosen_and_not_shown_yet_is_not_decided_about(page):
    """The window still shows row 8 of the long one while it waits for the short one, which has no such row."""
    place, of, rows, *_, reason, said = page.decide("drop", "why", "long.jsonl", 7, *query("short.jsonl"))
    assert (place, of, reason) == (0, "short.jsonl", "why")
    assert "short.jsonl 1" in rows
    assert "Nothing is decided: the row was of long.jsonl" in said
    assert decided(page) == {}


def test_where_no_row_is_shown_none_is_decided_about(page):
    *_, reason, said = page.decide("drop", "why", "long.jsonl", 7, *query("long.jsonl", search="never"))
    assert "no row is shown" in said
    assert reason == "why"
    assert decided(page) == {}


def test_after_the_last_row_of_a_list_comes_the_one_before(page):
    undecided = query("long.jsonl", filters=("not decided",))
    assert page.decide("drop", "", "long.jsonl", 8, *undecided)[0] == 7
    assert page.decide("drop", "", "long.jsonl", 3, *undecided)[0] == 4
