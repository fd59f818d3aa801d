"""Bars: drawn with counts on a terminal, not at all elsewhere; and what libraries say is left out narrowly."""

import io
import logging
import sys
import warnings
from contextlib import suppress

import pytest

from mmdpo import progress
from mmdpo.folders import leaving_nothing
from mmdpo.terminal import leave_out_noise, show_log


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Puts a terminal in the place of stderr; in a fixture, pytest would put its own there again."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0)
    return terminal


def test_things_are_counted_on_a_terminal(monkeypatch):
    terminal = open_terminal(monkeypatch)
    assert list(progress.count(iter("abc"), "reading", "row", total=3)) == ["a", "b", "c"]
    assert "reading" in terminal.getvalue()
    assert "0/3" in terminal.getvalue()
    assert "row/s" in terminal.getvalue()


def test_that_libraries_are_loaded_is_said_on_a_terminal_until_they_are(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress.loading():
        assert terminal.getvalue() == "loading PyTorch and transformers …"
    assert terminal.getvalue().endswith("\r"), "what is said next begins at the line's start"
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress.loading():
        assert sys.stderr.getvalue() == ""


def test_what_was_done_before_is_counted(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress.counting(10, "scoring", "pair", done=4) as advance:
        advance(6)
    assert "4/10" in terminal.getvalue()


def test_stages_are_named_and_counted(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress.stages(2, "merging") as begin:
        begin("reading")
        begin("writing")
    assert terminal.getvalue().startswith("\rmerging: reading (1/2)")  # and no bar without a name before it
    assert "merging: writing (2/2)" in terminal.getvalue()


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_is_drawn_in_a_file_or_where_nothing_is_to_be_shown(shown, monkeypatch):
    stream = io.StringIO() if shown else Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", 0)
    assert list(progress.count("ab", "reading", "row", shown=shown)) == ["a", "b"]
    with progress.counting(1, "scoring", "pair", shown=shown) as advance:
        advance(1)
    assert stream.getvalue() == ""


def test_only_what_is_named_is_left_out(caplog, monkeypatch):
    leave_out_noise()
    leave_out_noise()
    logger = logging.getLogger("transformers.trainer_utils")
    # Other tests may have quieted transformers, or taken its records away from the root.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger=logger.name):
        logger.warning("The tokenizer has new PAD/BOS/EOS tokens that differ from the model config")
        logger.warning("The tokenizer is slow")
    assert {record.getMessage() for record in caplog.records} == {"The tokenizer is slow"}
    assert len(logger.filters) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leave_out_noise()
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        warnings.warn("`is_gradient_checkpointing` is deprecated", UserWarning, stacklevel=1)
        warnings.warn("something else", FutureWarning, stacklevel=1)
    assert [(str(w.message)[:9], w.category) for w in caught] == [
        ("`is_gradi", UserWarning),
        ("something", FutureWarning),
    ]


@pytest.mark.parametrize("is_main", [True, False])
def test_a_log_is_plain_lines_and_one_process_tells_how_it_goes(is_main, capsys, monkeypatch):
    root, ours = logging.getLogger(), logging.getLogger("mmdpo")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(ours, "level", ours.level)
    show_log(is_main=is_main)
    logging.getLogger("mmdpo.training").info("a long line " * 20)
    logging.getLogger("mmdpo.training").warning("of %d rows", 3)
    logging.getLogger("other").info("chatter")
    told = capsys.readouterr().err.splitlines()
    assert told == [*(["a long line " * 20] if is_main else []), "warning: of 3 rows"]


def test_a_folder_that_stays_empty_is_removed_after_an_error(tmp_path):
    def fail(folder, file=""):
        with suppress(ZeroDivisionError), leaving_nothing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if file:
                (folder / file).write_text("kept")
            1 / 0  # noqa: B018

    fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    fail(tmp_path / "a" / "b", "answers.jsonl")
    assert (tmp_path / "a" / "b" / "answers.jsonl").exists()
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine")
    assert (tmp_path / "mine").exists()
