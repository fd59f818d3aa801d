"""The tutorials as a reader follows them: each page becomes a notebook, which is executed in an empty folder."""

import os
import sys
from pathlib import Path

import pytest

import forked
from page_blocks import ROOT

nbclient = pytest.importorskip("nbclient", reason="tutorials are run by nbclient: pip install --group dev")
jupytext = pytest.importorskip("jupytext", reason="tutorials become notebooks by jupytext: pip install --group dev")
pytest.importorskip("ipykernel", reason="notebooks are run by ipykernel: pip install --group dev")

TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = {path.stem: path for path in sorted(TUTORIALS.glob("*.md")) if path.name != "README.md"}
SHOWS = {
    "first-run": ("chosen:", "model.safetensors", "world/chair_i"),
    "own-pairs": ("24 photographs", "faulty", "pairs:"),
    "extend": ("loss/image_hinge", "accuracy 0.667"),
    "does-it-look": ("dpo: ", "mdpo: "),
}
"""What the cells of a page print, among other things."""


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def test_every_page_is_in_the_list_and_has_something_to_be_seen():
    listed = (TUTORIALS / "README.md").read_text()
    assert PAGES.keys() == SHOWS.keys()
    assert all(f"]({name}.md)" in listed for name in PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_tutorial_runs_as_a_notebook(name, tmp_path, monkeypatch):
    # `python` is this interpreter, and `mmdpo` the package that is tested.
    (tmp_path / "bin").mkdir()
    places = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(places))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(forked.WORLD_ROWS, "128")  # of 768: the trainings are of a dozen steps
    notebook = jupytext.read(PAGES[name], fmt="md")
    assert any(cell.cell_type == "code" and cell.source.startswith("%%bash") for cell in notebook.cells)
    runner = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path / "empty"}}
    )
    (tmp_path / "empty").mkdir()
    with forked.command_in(tmp_path / "bin", real="pairs show"):
        runner.execute()
    said = printed(notebook)
    assert [text for text in SHOWS[name] if text not in said] == []
