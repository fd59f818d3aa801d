"""Files that somebody's data name: looked at before they are opened, since a pipe would wait and a device never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def irregular_kind(path: str | Path) -> str | None:
    """Returns what a path names if it is no regular file, links followed: `a folder`, `a named pipe`; else None.

    Raises OSError for a path that leads to nothing.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116  a Path would be normalised, and its text is the user's
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def check_regular(path: Path, name: str) -> None:
    """Raises ValueError where a path exists and is neither a regular file nor a folder."""
    kind = irregular_kind(path) if path.exists() else None
    if kind not in (None, "a folder"):
        raise ValueError(f"{name}: this is {kind}, which is not read: give a file or a folder")
