"""Processes that begin with everything imported: they are forked from a server, one for each process of pytest.

Only a process of its own shows how a command ends, is killed, or works beside others. But to import PyTorch,
transformers and TRL takes seconds, often longer than what a test asks of it. Of every verb some test starts the real
command all the same, with what its imports take and print.
"""

import atexit
import gc
import io
import json
import multiprocessing
import os
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PRELOADED = ["mmdpo.study.server", "mmdpo.diagnosis.run", "mmdpo.pairs.run", "mmdpo.app.page"]
"""What is imported: first what `mmdpo study` has imported for its trials, which are forked from the same server."""


class Started:
    """A process; what it prints goes into the files `out` and `errors` of a folder of its own."""

    def __init__(self, pid: int, poll: Callable[[], int | None], folder: Path) -> None:
        self.pid, self.poll, self.out, self.errors = pid, poll, folder / "out", folder / "errors"
        """`poll` returns its exit status, minus a signal where one ended it; None while it runs."""

    def said(self) -> str:
        """Returns what it has printed so far: its output, then its errors."""
        return "".join(path.read_text(errors="replace") for path in (self.out, self.errors) if path.exists())

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it has not ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has by now
                os.kill(self.pid, number)

    def wait(self, seconds: float = 600.0) -> int:
        """Returns its exit status; kills it where it has not ended in time, and raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"no end within {seconds:.0f} s: {self.said()[-3000:]}")
            time.sleep(0.01)
        return status


def start(*words: Any, cwd: str | Path = ".", **env: str) -> Started:
    """Starts `mmdpo WORDS…`; a script where the first word is its Path, a module where it is -m; `env` is over ours."""
    folder = _new_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    given = [*words[:1], *map(str, words[1:])]
    process = context.Process(target=_be, args=(given, Path(cwd).resolve(), _environment(env), folder))
    process.start()
    assert process.pid is not None
    return Started(process.pid, lambda: process.exitcode, folder)


def start_really(*words: Any, cwd: str | Path = ".", **env: str) -> Started:
    """Starts the command itself, `python -m mmdpo WORDS…`, or a script, with what their imports take."""
    folder = _new_folder()
    with (folder / "out").open("w") as out, (folder / "errors").open("w") as errors:
        module = [] if isinstance(words[0], Path) else ["-m", "mmdpo"]
        command = [sys.executable, *module, *map(str, words)]
        process = subprocess.Popen(command, cwd=cwd, env=_environment(env), stdout=out, stderr=errors)
    return Started(process.pid, process.poll, folder)


def run(*words: Any, cwd: str | Path = ".", **env: str) -> tuple[int, str, str]:
    """Returns the exit status of what `start` starts, and what it has printed: its output, its errors."""
    process = start(*words, cwd=cwd, **env)
    return process.wait(), process.out.read_text(errors="replace"), process.errors.read_text(errors="replace")


def run_ranks(*words: Any, count: int = 2, **env: str) -> list[str]:
    """Runs processes that train or answer together, as a launcher starts them; returns what each has printed.

    Ends all of them, and fails, once one has failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    ranks = [start(*words, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]
    try:
        deadline = time.monotonic() + 900  # a guard against processes that wait for each other
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < deadline, "the processes wait for each other"
            time.sleep(0.02)
        failed = [rank.errors.read_text(errors="replace")[-3000:] for rank in ranks if rank.poll()]
        assert not failed, failed[0]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signal.SIGKILL)
                rank.wait()
    return [rank.out.read_text(errors="replace") for rank in ranks]


@contextmanager
def command_in(folder: Path, real: str | None, name: str = "mmdpo") -> Iterator[None]:
    """Puts an executable `mmdpo` into a folder: its calls are forked processes, but for those of the verb `real`.

    By the name `python` it is one that runs modules.
    """

    class Call(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = json.loads(self.rfile.readline())
            self.wfile.write(json.dumps(run(*asked["words"], cwd=asked["cwd"], **asked["env"])).encode())

    place = _new_folder() / "socket"
    command = folder / name
    command.write_text(
        f"#!{sys.executable} -SE\n"
        "import json, os, socket, sys\n"
        f"if ' '.join(sys.argv[1:]).startswith({real or ()!r}):\n"
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'mmdpo', *sys.argv[1:]])\n"
        "server = socket.socket(socket.AF_UNIX)\n"
        f"server.connect({str(place)!r})\n"
        "asked = dict(words=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))\n"
        "server.sendall(json.dumps(asked).encode() + b'\\n')\n"
        "status, out, errors = json.load(server.makefile())\n"
        "print(out, end='')\n"
        "print(errors, end='', file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    command.chmod(0o755)
    with socketserver.UnixStreamServer(str(place), Call) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _new_folder() -> Path:
    home = os.environ.get("HF_HOME")  # where tests run, a folder of a folder of theirs
    return Path(tempfile.mkdtemp(prefix="started-", dir=home and Path(home).parent))


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **env}


ONE_PANEL, WORLD_ROWS = "MMDPO_TESTS_ONE_PANEL", "MMDPO_TESTS_WORLD_ROWS"
"""Variables by which a forked process leaves out what its test does not look at, as `_leave_out` says."""


def _leave_out(environment: Mapping[str, str]) -> None:
    """Draws one panel of a card's curves, and so many pairs of the embedded world as its dataset, where this is asked.

    All curves take as long as ten steps, and all pairs of the world longer than training on some of them.
    """
    if ONE_PANEL in environment:
        from mmdpo.checkpoints import card
        from mmdpo.report.figures import draw_panels

        card.draw_panels = lambda panels, path: draw_panels(panels[:1], path)  # type: ignore[attr-defined]
    if WORLD_ROWS in environment:
        from mmdpo.data import examples

        rows = int(environment[WORLD_ROWS])
        examples.WORLD_SPLITS = {name: (rows, purpose) for name, (_, purpose) in examples.WORLD_SPLITS.items()}


def _be(words: list[Any], cwd: Path, environment: dict[str, str], folder: Path) -> None:
    """Turns this process into what was started."""
    for number, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    multiprocessing.set_start_method(None, force=True)  # for its own processes, as anywhere
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    import huggingface_hub.constants
    import torch

    # What the server has read at its own start.
    tempfile.tempdir = None
    if "HF_HOME" in environment:
        huggingface_hub.constants.HF_HOME = environment["HF_HOME"]
    torch.set_num_threads(1)
    _leave_out(environment)
    gc.freeze()  # what is imported: to look through it for garbage would copy it
    try:
        if isinstance(words[0], Path):
            sys.argv = list(map(str, words))
            sys.path.insert(0, str(words[0].parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
        elif words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            from mmdpo.cli import main

            sys.exit(main(words))
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
