"""Checkpoints in a run folder: written aside, sealed, and renamed, so that a name never stands for half of one.

Knows files alone. Several processes may write into what lies aside; one of them seals and publishes it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import CheckpointError, read_json, write_json

logger = logging.getLogger(__name__)

UNFINISHED = "_unfinished"
"""Folder in the run folder for what is being written or removed; Trainer's uploads skip names with an underscore."""

RECORD = "checkpoint.json"
"""File in a checkpoint that says which run it belongs to, and which files make it whole."""

KEYS = {"run": dict, "versions": dict, "save_only_model": bool, "files": dict}
"""What the record has to say, and of which kind each of it is."""

REPLACED = "replaced-"
"""Prefix, in the folder aside, of a checkpoint that makes way for a new one of the same step."""

HASHED_BYTES = 2**28
"""Longer files are known by their size alone: to read them again would take as long as to write them."""

MODEL_MARKS = (ADAPTER_CONFIG, "config.json")
"""Files without which no tool takes a folder for a model: they go first and come last."""


class SaveError(OSError):
    """A checkpoint or model that could not be written: says where, why, and what is left to go on from."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run folder in the order of their steps, whole or not."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.rpartition("-")[2]))


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the record, which lists all files of a checkpoint, and waits until everything is on the disk."""
    # A card is for readers, who may write into it.
    files = {str(path.relative_to(folder)): _describe_file(path) for path in _walk(folder) if path.suffix != ".md"}
    write_json(folder / RECORD, {**content, "files": files})
    sync_folder(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """Returns the record of a checkpoint. Raises CheckpointError, which names the file, for one that is not whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    if not (folder / RECORD).is_file():
        raise CheckpointError(f"{folder} is no checkpoint that was written to its end by mmdpo: {RECORD} is missing")
    record: dict[str, Any] = read_json(folder / RECORD)
    if not _is_record(record):
        raise CheckpointError(f"{folder / RECORD} is damaged: take another checkpoint, or copy this one anew")
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: take another checkpoint, or copy this one anew")
        if _describe_file(path) != expected:
            raise CheckpointError(
                f"{path} is cut short or damaged ({path.stat().st_size} bytes, written with {expected['bytes']}): take "
                "another checkpoint, or copy this one anew"
            )
    return record


def find_last_whole(folder: Path) -> Path | None:
    """Returns the last checkpoint that is whole, and says why later ones are not; None where there are no checkpoints.

    Raises CheckpointError where there are some and none is whole.
    """
    faults = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            read_record(checkpoint)
            return checkpoint
        except CheckpointError as error:
            logger.warning("%s is passed over: %s", checkpoint.name, error)
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"no checkpoint in {folder} is whole: {'; '.join(faults)}")
    return None


def publish(aside: Path, target: Path) -> None:
    """Gives a sealed checkpoint its name, in one step; an older one of the same name goes only behind that."""
    replaced = aside.with_name(f"{REPLACED}{target.name}")
    if target.exists():
        target.rename(replaced)
    aside.rename(target)
    sync_folder(target.parent, files=False)
    discard(replaced)


def publish_model(aside: Path, target: Path) -> None:
    """Moves the files of a model into a folder, so that no tool takes it for a model before all of them are there."""
    files = [path.relative_to(aside) for path in _walk(aside)]
    if files:
        sync_folder(aside)
        for mark in MODEL_MARKS:
            (target / mark).unlink(missing_ok=True)
        for file in sorted(files, key=lambda file: str(file) in MODEL_MARKS):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (aside / file).replace(target / file)
        sync_folder(target, files=False)
    discard(aside)


def discard(aside: Path) -> None:
    """Removes what lies aside."""
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is under way there
        aside.parent.rmdir()


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint; its name is gone before its files are."""
    aside = checkpoint.parent / UNFINISHED
    aside.mkdir(exist_ok=True)
    discard(checkpoint.rename(aside / checkpoint.name))


def rotate(folder: Path, limit: int | None, keep: Iterable[Path]) -> None:
    """Removes the oldest checkpoints beyond a limit (None or 0: there is none), never those to be kept."""
    if not limit or limit < 1:
        return
    checkpoints, kept = list_checkpoints(folder), {path.resolve() for path in keep}
    for checkpoint in checkpoints:
        if len(checkpoints) <= max(limit, len(kept)):
            return
        if checkpoint.resolve() not in kept:
            remove_checkpoint(checkpoint)
            checkpoints = [path for path in checkpoints if path != checkpoint]


def clear_unfinished(folder: Path) -> None:
    """Removes what a run that was killed left half written, or half removed."""
    aside = folder / UNFINISHED
    for replaced in aside.glob(f"{REPLACED}*"):
        original = folder / replaced.name.removeprefix(REPLACED)
        if not original.exists():  # killed between the two renamings of `publish`
            replaced.rename(original)
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path, *, files: bool = True) -> None:
    """Waits until names, and the contents of all files, are on the disk."""
    for path in folder.rglob("*") if files else ():
        _sync(path)
    _sync(folder)


def find_free_bytes(folder: Path) -> int:
    """Returns how much can be written into a folder that is there, or will be."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def describe_space(folder: Path, needed: int) -> str:
    """Returns in words how much is free for a folder, and how much about is needed."""
    return f"{_in_words(find_free_bytes(folder))} are free, and about {_in_words(needed)} are needed"


def measure(folder: Path) -> int:
    """Returns the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in _walk(folder))


def _in_words(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _describe_file(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size, "xxh3": xxh3_128(path.read_bytes()).hexdigest() if size <= HASHED_BYTES else None}


def _is_record(content: Any) -> bool:
    """Says whether what a file of that name holds has the form of a record."""
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in KEYS.items()):
        return False
    return all(isinstance(entry, dict) and "bytes" in entry for entry in content["files"].values())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot for folders
            raise
    finally:
        os.close(descriptor)
