"""A file of JSON lines that grows while something long runs, and survives whatever ends it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mmdpo.benchmarks.reading import EvaluationError

_SYNC_EVERY = 5.0
"""Seconds that a crash of the machine may cost; a crash of the program costs nothing."""
_BLOCK = 65_536


class LineFile:
    """Appends objects, one a line, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        """Makes nothing yet; the first line makes the file."""
        self.path, self.written = path, 0
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one line; raises EvaluationError where the disk takes no more, with all earlier lines kept."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            while line:  # an unbuffered write may take part of it
                line = line[self._file.write(line) or 0 :]
            if time.monotonic() - self._synced > _SYNC_EVERY:
                self._sync()
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: cannot be written ({error.strerror}); make room there, then go on by the same command"
            ) from error
        self.written += 1

    def close(self) -> None:
        """Ends writing."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def mend_last_line(path: Path) -> bool:
    """Ends a file with a whole line, where a crash or a full disk cut it; returns whether half a line was removed.

    A last line that lacks nothing but its end is kept.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:
            step = min(_BLOCK, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
        last = tail.rpartition(b"\n")[2]
        if not last:
            return False
        try:
            json.loads(last)
        except ValueError:  # no JSON, or cut within a character
            file.truncate(size - len(last))
            return True
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
        return False
