"""Evaluations that are killed, interrupted or out of disk: what was paid for is kept, and nothing is paid twice."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmark_data import HAND_MADE
from chat_server import Act, serve
from eval_verb import run
from mmdpo.evaluation import asking, judging, suite
from mmdpo.files import UnusableFileError

ITEMS, AT_ONCE = 40, 2
LOADED = (asking, judging, suite)
"""Imported before a test gives up its rights to read the installed packages."""
REFUSED = (UnusableFileError, OSError)


def start(*arguments, largest_file=None):
    """Starts `mmdpo eval` as a process of its own."""

    def prepare() -> None:
        # Where the tests run in the background Ctrl-C is ignored, and a process passes that on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = {**os.environ, "OPENAI_API_KEY": "sk-a-secret-key", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mmdpo", "eval", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def finish(process):
    """Returns the status and what was said on the error stream."""
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    return process.returncode, errors


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.005)


def lines(path):
    """The whole lines of a file that may be growing."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def ask_about_world(server, out):
    options = ["world", "--model", "m", "--base_url", server.url, "--limit", ITEMS, "--concurrency", AT_ONCE]
    return [*options, "--out", out, "--resamples", "100"]


def ask_judge(server, out, *more):
    folder = HAND_MADE / "mmhal"
    options = ["mmhal", "--answers", folder / "answers.json", "--data_dir", folder, "--out", out, "--resamples", "100"]
    return [*options, "--judge_model", "m", "--judge_url", server.url, "--judge_concurrency", "1", *more]


@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_while_answering_goes_on_and_pays_for_no_kept_answer_again(end, status, tmp_path):
    with serve(lambda request, number: Act(f"a red circle, {number}", delay=0.02)) as server:
        process = start(*ask_about_world(server, tmp_path))
        wait_until(lambda: len(lines(tmp_path / "answers.jsonl")) >= 10)
        process.send_signal(end)
        assert finish(process)[0] == status
        kept = {row["id"]: row["answer"] for row in lines(tmp_path / "answers.jsonl")}
        asked = len(server.requests)
        assert 10 <= len(kept) < ITEMS
        assert asked <= len(kept) + AT_ONCE  # what was on its way is lost, and nothing else
        run(*ask_about_world(server, tmp_path))
        assert len(server.requests) == asked + ITEMS - len(kept)
    rows = {row["id"]: row["answer"] for row in lines(tmp_path / "answers.jsonl")}
    assert len(rows) == ITEMS
    assert kept.items() <= rows.items()


@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_while_judging_keeps_its_replies_and_goes_on(end, status, tmp_path):
    with serve(lambda request, number: Act("Rating: 4", delay=0.2)) as server:
        process = start(*ask_judge(server, tmp_path))
        wait_until(lambda: len(lines(tmp_path / "judge_replies.jsonl")) >= 2)
        process.send_signal(end)
        assert finish(process)[0] == status
        kept = len(lines(tmp_path / "judge_replies.jsonl"))
        asked = len(server.requests)
        assert 2 <= kept < 4
        run(*ask_judge(server, tmp_path))
        assert len(server.requests) == asked + 4 - kept
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["mmhal/score"]["value"] == 4


def test_a_disk_that_fills_while_answering_ends_in_one_line_with_whole_answers(tmp_path):
    with serve(lambda request, number: Act(f"a red circle, {number}")) as server:
        status, errors = finish(start(*ask_about_world(server, tmp_path), largest_file=4_000))
        last = errors.strip().splitlines()[-1]
        assert status == 2
        assert last.startswith("mmdpo: ")
        assert "answers.jsonl: cannot be written" in last
        assert "make room" in last
        text = (tmp_path / "answers.jsonl").read_text()
        assert text.endswith("\n")  # the half of a line is gone
        kept, asked = len(lines(tmp_path / "answers.jsonl")), len(server.requests)
        assert kept > 0
        run(*ask_about_world(server, tmp_path))
        assert len(server.requests) == asked + ITEMS - kept


def test_a_disk_that_fills_while_judging_leaves_whole_replies(tmp_path):
    text = "Rating: 4" + " and so on" * 50
    with serve(lambda request, number: Act(text)) as server:
        options = ask_judge(server, tmp_path, "--judge_concurrency", "4")
        status, errors = finish(start(*options, largest_file=2_000))
        assert status == 2
        assert "judge_replies.jsonl: cannot be written" in errors.strip().splitlines()[-1]
        kept, asked = len(lines(tmp_path / "judge_replies.jsonl")), len(server.requests)
        assert 1 <= kept < 4
        assert (tmp_path / "judge_replies.jsonl").read_text().count("\n") == kept
        run(*options)
        assert len(server.requests) == asked + 4 - kept


@contextmanager
def read_only_folder():
    """A folder that this process cannot write into, whoever runs the tests."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        folder.rmdir()


@pytest.mark.parametrize("inside", ["", "new/run"])
def test_nothing_is_asked_where_no_answer_can_be_kept(inside, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-key")
    with serve(lambda request, number: Act()) as server:
        for ask in (ask_about_world, ask_judge):
            with read_only_folder() as folder, pytest.raises(REFUSED, match=r"cannot be (made|written) \(Permission"):
                run(*ask(server, folder / inside))
        assert server.requests == []


def test_nothing_is_asked_where_the_kept_replies_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-key")
    (tmp_path / "file").write_text("")
    with serve(lambda request, number: Act()) as server:
        with pytest.raises(UnusableFileError, match=r"file.*cannot be made"):
            run(*ask_judge(server, tmp_path / "out", "--judge_cache", tmp_path / "file" / "cache"))
        assert server.requests == []
