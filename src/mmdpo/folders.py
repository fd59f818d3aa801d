"""Folders that are written into: made, held by one process at a time, and whole or not there at all.

A second process is refused, and told which one is at work there.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from mmdpo.files import UnusableFileError

logger = logging.getLogger(__name__)

LOCK = "_lock"
"""File of a folder's lock, which is the system's own on an open file: it goes with its process, however that ends.

The text only says whose it is. Trainer's uploads leave out names that begin with an underscore.
"""
YAML = (".yaml", ".yml")
_held: dict[Path, int] = {}
"""Folders that this process holds, and the descriptors of their locks."""


class FolderInUseError(ValueError):
    """A folder that another process writes into: says which."""


def make_folder(folder: Path) -> None:
    """Makes a folder to write into, unless it is there; raises UnusableFileError, which names it, where it cannot."""
    if folder.exists() and not folder.is_dir():
        raise UnusableFileError(f"{folder} is a file: choose another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableFileError(f"{folder} cannot be made ({error.strerror}): choose another place") from error
    if not os.access(folder, os.W_OK):
        raise UnusableFileError(f"{folder} cannot be written to: choose another place, or change its rights")


def check_unused(folder: Path) -> None:
    """Raises UnusableFileError where a folder that is to be made holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UnusableFileError(f"{folder} holds something already: choose another folder, or remove it")


def check_kind(folder: Path, marks: Iterable[str], kind: str) -> None:
    """Raises UnusableFileError for a folder that holds something, and nothing that only a folder of this kind has.

    `marks` are patterns of names. A lock, hidden files and YAML, which somebody may have put there to begin with, are
    no reason to refuse it; anything else might be overwritten.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name != LOCK and not name.startswith(".") and Path(name).suffix not in YAML]
    if others and not any(fnmatch(name, mark) for name in names for mark in marks):
        shown = ", ".join(others[:3]) + (", …" if others[3:] else "")
        raise UnusableFileError(f"{folder} holds {shown} and no {kind}: choose another --out")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Gives a folder that becomes `folder` at the end, or goes away with an error; raises as `check_unused`.

    What a killed process has left there is removed first; FolderInUseError where another process is at work there.
    """
    check_unused(folder)
    aside = folder.parent / f".{folder.name}.partial"
    make_folder(aside)
    with hold_folder(aside):
        try:
            for left in aside.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                elif left.name != LOCK:
                    left.unlink()
            yield aside
            aside.replace(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        (folder / LOCK).unlink(missing_ok=True)


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Where the block ends with an error, removes the folder, and those above it, that it has made and left empty."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in absent:
            with suppress(OSError):  # it holds something
                path.rmdir()
        raise


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Holds a folder; may be nested. Raises FolderInUseError where another process does, OSError if it is read-only."""
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
            # What a file system answers that knows no locks, as some of a cluster's do.
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
                logger.warning("%s lies on a file system without locks: nothing else may write into it now", folder)
                break
            try:
                owner = json.loads(os.pread(descriptor, 1000, 0))
                told = f"process {int(owner['pid'])} on {str(owner['host'])[:100]}"
            except (ValueError, KeyError, TypeError):
                told = "another process"  # which has not written its name yet
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} is in use by {told}: wait until it has ended, stop it, or choose another folder"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # its owner has removed it just now
    with suppress(OSError):  # a full disk is no reason not to hold the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    return descriptor


def _forget_in_child() -> None:
    """Lets go of the parent's locks in a process that it has forked: a worker must not hold them after its death."""
    for descriptor in _held.values():
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
