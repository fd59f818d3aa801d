"""SIGTERM: the current step is finished, a checkpoint is saved, and the process ends with a status of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

SAME_REQUEST_S = 5.0
"""A second SIGTERM within so many seconds is the same request: a scheduler and a launcher may both pass it on."""


class TrainingStopped(Exception):  # noqa: N818 (nothing went wrong)
    """Training has ended before its end because it was asked to; says where, and how to resume."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        self.checkpoint = checkpoint
        self.step = step
        super().__init__(
            f"stopped by SIGTERM after step {step}, which {checkpoint} holds. Resume with --resume_from_checkpoint true"
        )


class StopRequest:
    """Whether SIGTERM has asked this process, or another one of the run, to stop."""

    def __init__(self) -> None:
        self.is_agreed = False
        """Whether all processes know of it, and act on it at the same step."""
        self._came_at: float | None = None
        self._before: Any = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM as a request; in a thread other than the main one, which may not, nothing changes."""
        self.is_agreed, self._came_at = False, None
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            self._give_back()

    def agree(self, accelerator: Any) -> bool:
        """Says whether any process was asked to stop. Every process must call it, at the same step."""
        came = self._came_at is not None
        if accelerator.num_processes > 1:
            came = bool(accelerator.reduce(torch.tensor(int(came), device=accelerator.device), reduction="sum"))
        self.is_agreed = came
        return came

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._came_at is None:
            self._came_at = now
        elif now - self._came_at > SAME_REQUEST_S:
            self._give_back()
            os.kill(os.getpid(), number)

    def _give_back(self) -> None:
        # None stands for a handler that was not set from Python and cannot be set again from there.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)


def outlive_sigterm(first: Callable[[int], None] | None) -> Callable[[int], None]:
    """Returns what a dataloader worker starts with: `first`, and then SIGTERM ends it only if its parent has sent it.

    A scheduler signals every process of a job. A worker that died of it would end the current step too.
    """
    return partial(_start_worker, first)


def _start_worker(first: Callable[[int], None] | None, worker: int) -> None:
    if first is not None:
        first(worker)
    if sys.platform == "linux":  # elsewhere nothing tells who has sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
