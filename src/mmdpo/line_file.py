"""A file of JSON lines that grows while something long runs, and survives whatever ends it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mmdpo.files import explain_unwritable, parse_json, to_json
from mmdpo.folders import make_folder

_SYNC_EVERY = 5.0
"""Seconds that a crash of the machine may cost; a crash of the program costs nothing."""
_BLOCK = 65_536


class LineFile:
    """Appends objects, one a line, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, 0
        self._file: IO[bytes] | None = None
        self._is_new = False
        self._synced = time.monotonic()

    def open(self) -> None:
        """Makes the file and its folder, unless they are there; raises UnusableFileError where none can be written."""
        if self._file is not None:
            return
        make_folder(self.path.parent)
        self._is_new = not self.path.exists()
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise explain_unwritable(self.path, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one line; raises UnusableFileError where the disk takes no more, with all earlier lines kept."""
        line = (to_json(row) + "\n").encode()
        self.open()
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:  # an unbuffered write may take part of it
                line = line[self._file.write(line) or 0 :]
            if time.monotonic() - self._synced > _SYNC_EVERY:
                self._sync()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)  # another thread's line may follow
            raise explain_unwritable(self.path, error) from error
        self.written += 1

    def close(self) -> None:
        """Ends writing; a file that was made for lines that never came is removed."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None
            if self._is_new and not self.written:
                self.path.unlink(missing_ok=True)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def mend_last_line(path: Path) -> bool:
    """Removes half a last line, cut by a crash or a full disk, and ends a whole one; returns whether it removed one."""
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
            parse_json(last)
        except ValueError:  # no JSON, or cut within a character
            file.truncate(size - len(last))
            return True
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
        return False


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields what `LineFile` wrote, after `mend_last_line`; raises ValueError, naming the line, for a damaged one."""
    mend_last_line(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}); remove the line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: it is {type(row).__name__} and no object; remove the line")
            yield row
