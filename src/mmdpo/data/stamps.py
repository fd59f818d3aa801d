"""Notices an image file that is replaced after the reference has been scored under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmdpo.data.images import digest_image
from mmdpo.records import ImageSource, RowError


@dataclass(frozen=True)
class FileStamp:
    """What a file was like when it was read."""

    size: int
    """Bytes."""
    changed_ns: int
    """Time of its last change, in nanoseconds."""
    digest: str
    """Of its content."""


def stamp_file(path: Path) -> FileStamp:
    """Returns the stamp of an image file. Raises RowError for one that cannot be read."""
    try:
        before = path.stat()  # looked at first, so that what changes while it is read is noticed later
    except OSError:
        digest_image(path)  # says what is wrong
        raise
    return FileStamp(before.st_size, before.st_mtime_ns, digest_image(path))


def check_unchanged(sources: Iterable[ImageSource], stamps: Mapping[str, FileStamp]) -> None:
    """Raises RowError for an image file with another content than its stamp says; files without one pass.

    A file of the same size and time is not read. One that is missing is left to what opens it.
    """
    for source in sources:
        if not isinstance(source, str | Path) or str(source) not in stamps:
            continue
        path, stamp = Path(source), stamps[str(source)]
        try:
            now = path.stat()
            is_other = (now.st_size, now.st_mtime_ns) != (stamp.size, stamp.changed_ns)
            is_replaced = is_other and stamp_file(path).digest != stamp.digest
        except FileNotFoundError:
            continue
        if is_replaced:
            raise RowError(
                f"image file {path} was replaced after the reference had been scored under the one before: put that "
                "back, or start anew, so that policy and reference see one picture"
            )
