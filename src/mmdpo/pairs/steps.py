"""Steps of `mmdpo iterate`: each is a command in a process of its own, which ends when and as this one is told to."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmdpo.files import printable
from mmdpo.pairs.gate import IterateError

_PATIENCE = 10.0
"""Seconds that a step which has heard Ctrl-C as well gets to end by itself."""


class RoundsStopped(Exception):  # noqa: N818 (nothing went wrong)
    """SIGTERM has stopped the rounds; says how to go on."""


def execute(words: Sequence[str]) -> None:
    """Runs a command. SIGTERM is passed on to it, so that training saves a checkpoint, and Ctrl-C waits for its end.

    Raises IterateError where it fails or cannot be started, RoundsStopped after SIGTERM.
    """
    command = printable(shlex.join(words))
    print(f"$ {command}", flush=True)
    running, told = list[subprocess.Popen[bytes]](), list[int]()

    def pass_on(number: int, frame: Any) -> None:
        told.append(number)
        for process in running:
            process.send_signal(number)

    with _on_sigterm(pass_on):
        try:
            process = subprocess.Popen(list(words))
        except OSError as error:
            raise IterateError(f"{words[0]} cannot be started ({error.strerror}): look at --launch") from error
        running.append(process)
        if told:  # before there was anything to tell
            process.terminate()
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _wait_for_end(process)
            raise
    if told:
        raise RoundsStopped("stopped by SIGTERM: the same command goes on from here")
    if status:
        raise IterateError(
            f"{command} ended with {_describe(status)}; what it did is kept, and the same command goes on there"
        )


@contextmanager
def _on_sigterm(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Hands SIGTERM to a function; in a thread other than the main one, which may not, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Waits for a step that a terminal has interrupted too; one that goes on is told to end, and by a second Ctrl-C
    killed."""
    try:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it was not told: the signal came to this process alone
            process.terminate()
            process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    name = signal.Signals(-status).name
    return name + (", which the system sends where memory runs out" if name == "SIGKILL" else "")
