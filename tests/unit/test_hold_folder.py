"""One writer for a folder: another process is refused by name, and a dead one holds nothing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from mmdpo.folders import LOCK, FolderInUseError, hold_folder

HOLD = """
import os, sys, time
from pathlib import Path
from mmdpo.folders import hold_folder
with hold_folder(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold the folder, and ends them."""
    started = []

    def start(how="alone"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), how],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_told_who_is_at_work(tmp_path, holder):
    process = holder()
    for _ in range(2):
        with pytest.raises(FolderInUseError, match=f"in use by process {process.pid} on ."), hold_folder(tmp_path):
            pass
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_process_holds_nothing_though_its_children_live_on(tmp_path, holder, how):
    process = holder(how)
    process.kill()
    process.wait()
    time.sleep(0.1)
    with hold_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_it_may_be_nested_and_is_let_go_of_by_the_outermost(tmp_path):
    with hold_folder(tmp_path):
        with hold_folder(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_an_error_lets_go_of_it(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_folder(tmp_path):
        1 / 0  # noqa: B018
    with hold_folder(tmp_path):
        pass


def test_a_file_of_any_content_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_bytes(b"\xff[" * 1000)
    with hold_folder(tmp_path):
        pass
