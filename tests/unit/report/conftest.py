"""A made-up run folder of the quickstart, and pages without the figures that lie beside them as files."""

import pytest

from mmdpo.report import figures, pair_figures, quickstart
from tests.unit.report.makers import write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Leaves files of figures empty: drawing them takes longer than writing the page that is looked at.

    Fixtures of a module or a class are made before, with all that is drawn.
    """

    def write_blank(draw, path):
        path.touch()
        path.with_suffix(".svg").touch()
        return path

    for module in (figures, pair_figures, quickstart):
        monkeypatch.setattr(module, "write_figure", write_blank)
