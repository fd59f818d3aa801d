"""One writer for a folder: a second process is refused, and told which one is at work there.

The lock is the system's own on an open file, so that it goes with its process however that ends; the file's text only
says whose it is. A file that a killed process has left is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LOCK = "_lock"
"""The file; uploads of Trainer leave out names that begin with an underscore."""

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system answers that knows no locks, as some of a cluster's do."""

_held: dict[Path, int] = {}
"""Folders that this process holds, and the descriptors of their locks."""


class FolderInUseError(ValueError):
    """A folder that another process writes into: says which."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Holds a folder, which has to be there, for this process; may be nested.

    Raises FolderInUseError where another process holds it, OSError for a folder that cannot be written.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    process, descriptor = os.getpid(), _lock(place)
    _held[place] = descriptor
    try:
        yield
    finally:
        if os.getpid() == process:  # and not a child that was forked inside
            del _held[place]
            with suppress(OSError):  # the folder may have been removed
                (place / LOCK).unlink()
            os.close(descriptor)


def _lock(folder: Path) -> int:
    """Returns the descriptor of the lock's file, locked, with this process's name in it."""
    path = folder / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                logger.warning("%s lies on a file system without locks: nothing else may write into it now", folder)
                break
            owner = _describe_owner(descriptor)
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} is in use by {owner}: wait until it has ended, stop it, or choose another folder"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # its owner has removed it just now
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with suppress(OSError):  # a full disk is no reason not to hold the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
    return descriptor


def _describe_owner(descriptor: int) -> str:
    try:
        owner: dict[str, Any] = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]!s}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet


def _forget_in_child() -> None:
    """Lets go of the parent's locks in a process that it has forked: a worker must not hold them after its death."""
    for descriptor in _held.values():
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
