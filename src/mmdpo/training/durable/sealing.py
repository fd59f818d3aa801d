"""Checkpoints in a run folder: begun, written by all processes, and sealed last, so that half of one is never used.

Knows files alone. A checkpoint is a folder `checkpoint-<step>` whose record `checkpoint.json` lists all its files. The
record is written last, as `checkpoint.json.partly`, and renamed: a folder that holds that file is unfinished.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from mmdpo.files import to_json
from mmdpo.models.start import ADAPTER_CONFIG, UNSEALED
from mmdpo.models.weights import CheckpointError, read_checkpoint_json

logger = logging.getLogger(__name__)

RECORD = "checkpoint.json"
"""The seal: says which run a checkpoint belongs to, and which files make it whole."""

UNFINISHED = "_unfinished"
"""Folder in the run folder for models that are being written, and for checkpoints that are being removed or replaced;
Trainer's uploads skip names with an underscore."""

REPLACED = "replaced-"
"""Prefix, in that folder, of a checkpoint that makes way for a new one of the same step."""

_KEYS = {"run": dict, "versions": dict, "save_only_model": bool, "files": dict}
"""Keys and types of a record."""

_HASHED_BYTES = 2**28
"""Longer files are compared by size alone: reading them again would take as long as writing them."""

MODEL_MARKS = (ADAPTER_CONFIG, "config.json")
"""Files without which no tool takes a folder for a model: they are removed first and moved in last."""


class SaveError(OSError):
    """A checkpoint or model that could not be written: says where, why, and which checkpoint is left."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run folder in the order of their steps, damaged ones too, unfinished ones not."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    finished = [path for path in found if path.is_dir() and not is_unfinished(path)]
    return sorted(finished, key=lambda path: int(path.name.rpartition("-")[2]))


def is_unfinished(checkpoint: Path) -> bool:
    """Returns whether a folder is a checkpoint that was begun and never sealed."""
    return (checkpoint / UNSEALED).exists()


def begin(checkpoint: Path) -> None:
    """Makes the folder of a checkpoint, unsealed; one of the same step is kept aside until the new one is sealed."""
    aside = checkpoint.parent / UNFINISHED
    made = aside / checkpoint.name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    (made / UNSEALED).touch()
    if checkpoint.exists():
        checkpoint.rename(aside / f"{REPLACED}{checkpoint.name}")
    made.rename(checkpoint)
    _remove_empty(aside)


def seal(checkpoint: Path, content: Mapping[str, Any]) -> None:
    """Writes the record, with the list of all files, once everything else is on the disk.

    Then removes the checkpoint that this one replaces, if any.
    """
    # A card is for readers, who may edit it.
    found = [path for path in _walk(checkpoint) if path.suffix != ".md" and path.name not in (RECORD, UNSEALED)]
    files = {str(path.relative_to(checkpoint)): _describe_file(path) for path in found}
    (checkpoint / UNSEALED).write_text(to_json({**content, "files": files}, 2) + "\n", encoding="utf-8")
    for path in checkpoint.rglob("*"):
        _sync(path)
    (checkpoint / UNSEALED).rename(checkpoint / RECORD)
    _sync(checkpoint)
    _sync(checkpoint.parent)
    _discard(checkpoint.parent / UNFINISHED / f"{REPLACED}{checkpoint.name}")


def read_record(checkpoint: Path) -> dict[str, Any]:
    """Returns the record of a checkpoint. Raises CheckpointError, which names the file, for one that is not whole."""
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is no folder: name a checkpoint of the run, or true for its last one")
    if not (checkpoint / RECORD).is_file():
        raise CheckpointError(f"{checkpoint} is no checkpoint that mmdpo has finished writing: {RECORD} is missing")
    record: dict[str, Any] = read_checkpoint_json(checkpoint / RECORD)
    is_record = isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in _KEYS.items())
    if not is_record or not all(isinstance(entry, dict) and "bytes" in entry for entry in record["files"].values()):
        raise CheckpointError(f"{checkpoint / RECORD} is damaged: use another checkpoint, or copy this one again")
    for name, expected in record["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: use another checkpoint, or copy this one again")
        if _describe_file(path) != expected:
            raise CheckpointError(
                f"{path} is cut short or damaged ({path.stat().st_size} bytes, written with {expected['bytes']}): use "
                "another checkpoint, or copy this one again"
            )
    return record


def find_last_whole(folder: Path) -> Path | None:
    """Returns the last checkpoint that is whole, and logs why later ones are not; None where there are no checkpoints.

    Raises CheckpointError where there are some and none is whole.
    """
    faults = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            read_record(checkpoint)
            return checkpoint
        except CheckpointError as error:
            logger.warning("%s is not used: %s", checkpoint.name, error)
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"no checkpoint in {folder} is whole: {'; '.join(faults)}")
    return None


def clear_unfinished(folder: Path) -> None:
    """Removes what was begun and not finished, and puts back checkpoints whose replacement was not finished."""
    for checkpoint in folder.glob("checkpoint-*"):
        if is_unfinished(checkpoint):
            _remove(checkpoint)
    for replaced in (folder / UNFINISHED).glob(f"{REPLACED}*"):
        original = folder / replaced.name.removeprefix(REPLACED)
        if not original.exists():
            replaced.rename(original)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def rotate(folder: Path, limit: int | None, keep: Iterable[Path]) -> None:
    """Removes the oldest checkpoints beyond a limit (None or 0: there is none), never those to be kept."""
    if not limit or limit < 1:
        return
    checkpoints, kept = list_checkpoints(folder), {path.resolve() for path in keep}
    removable = [path for path in checkpoints if path.resolve() not in kept]
    for checkpoint in removable[: max(0, len(checkpoints) - max(limit, len(kept)))]:
        _remove(checkpoint)


def publish_model(aside: Path, target: Path) -> None:
    """Moves the files of a model into a folder, so that no tool takes it for a model before all of them are there."""
    files = [path.relative_to(aside) for path in _walk(aside)]
    if not files:  # an engine that saves nothing here, as FSDP in pieces
        return
    for path in aside.rglob("*"):
        _sync(path)
    for mark in MODEL_MARKS:
        (target / mark).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: str(file) in MODEL_MARKS):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (aside / file).replace(target / file)
    _sync(target)
    _discard(aside)


def find_free_bytes(folder: Path) -> int:
    """Returns how many bytes can be written into a folder that exists or will be made."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def describe_space(folder: Path, needed: int) -> str:
    """Returns in words how much space is free for a folder, and about how much is needed."""
    free, wanted = (
        f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
        for count in (find_free_bytes(folder), needed)
    )
    return f"{free} are free, and about {wanted} are needed"


def measure(folder: Path) -> int:
    """Returns the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in _walk(folder))


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint: its name first, so that it never stands for half of one."""
    aside = checkpoint.parent / UNFINISHED / checkpoint.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    _discard(checkpoint.rename(aside))


def _discard(aside: Path) -> None:
    """Removes a folder in `_unfinished`."""
    shutil.rmtree(aside, ignore_errors=True)
    _remove_empty(aside.parent)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something else, or is not there
        folder.rmdir()


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _describe_file(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size, "xxh3": xxh3_128(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else None}


def _sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
