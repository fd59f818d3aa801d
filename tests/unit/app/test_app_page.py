"""The page as a whole: nothing begins in the background before every tab is there."""

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo.app import page
from mmdpo.app.sources import Sources


def make_tab(title, build):
    return SimpleNamespace(TITLE=title, is_wanted=lambda sources: True, build=build)


def fail(sources):
    raise ValueError("the second tab cannot be built")


@pytest.mark.parametrize("second", [fail, lambda sources: None])
def test_what_runs_in_the_background_begins_after_every_tab(monkeypatch, second):
    begun = []
    tabs = (make_tab("one", lambda sources: lambda: begun.append("one")), make_tab("two", second))
    monkeypatch.setattr(page, "PAGES", tabs)
    monkeypatch.setattr(Sources, "found", SimpleNamespace())
    if second is fail:
        with pytest.raises(ValueError, match="second tab"):
            page.build_app(Sources())
        assert begun == []
    else:
        page.build_app(Sources())
        assert begun == ["one"]
