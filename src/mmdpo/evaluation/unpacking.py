"""What is taken out of the archives of benchmarks, whose members nobody trusts."""

from __future__ import annotations

import base64
import json
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.similarity import OFFICIAL_MODEL, PAIRS, make_pair_table
from mmdpo.benchmarks.word_vectors import WordVectors
from mmdpo.files import parse_json

IMAGES = "images"
"""Folder of a benchmark's images, inside the folder of its data."""
QUESTIONS = "obj_halbench_300_questions.jsonl"
"""Object HalBench's, taken out of a file that holds the images too."""
LARGEST_PICTURE, LARGEST_ANNOTATIONS, LARGEST_VECTORS, LARGEST_ARCHIVE = 64 << 20, 1 << 30, 1 << 30, 8 << 30
"""Bytes, unpacked: several times what the benchmarks have. An archive may claim anything."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_UNREADABLE = (*_DAMAGED, EOFError, OSError, ValueError, RuntimeError)
"""What `zipfile` raises for members that are damaged, or (RuntimeError) encrypted or packed in an unknown way."""

Unpacked: TypeAlias = Iterator[tuple[str, bytes]]
"""Path inside the benchmark's folder, content."""


def unpack_pictures(archive: Path) -> Unpacked:
    """Yields the pictures of a zip archive, whatever folders it has; raises EvaluationError as `unpack_zip`."""
    for name, content in unpack_zip(archive, lambda path: path.name if _is_picture(path) else "", LARGEST_PICTURE):
        yield f"{IMAGES}/{name}", content


def unpack_folders(archive: Path, *, roots: Sequence[str]) -> Unpacked:
    """Yields the pictures of a zip archive that lie in one of these folders, and keeps the folders in it."""

    def place(path: PurePosixPath) -> str:
        start = next((number for number, part in enumerate(path.parts) if part in roots), None)
        is_kept = start is not None and _is_picture(path) and ".." not in path.parts
        return "/".join(path.parts[start:]) if is_kept else ""

    for name, content in unpack_zip(archive, place, LARGEST_PICTURE):
        yield f"{IMAGES}/{name}", content


def _is_picture(path: PurePosixPath) -> bool:
    return re.fullmatch(r"[^.].*\.(jpe?g|png)", path.name, re.IGNORECASE) is not None


def unpack_annotations(archive: Path) -> Unpacked:
    """Yields COCO's instances and captions of val2014; raises EvaluationError as `unpack_zip`."""
    wanted = ("instances_val2014.json", "captions_val2014.json")
    return unpack_zip(archive, lambda path: path.name if path.name in wanted else "", LARGEST_ANNOTATIONS)


def unpack_similar_pairs(wheel: Path) -> Unpacked:
    """Yields the table of similar words of AMBER's list, made from the vectors of spaCy's model in its wheel.

    AMBER's own files lie beside the wheel already. Raises EvaluationError for another model's wheel, and as
    `unpack_zip`.
    """

    def place(path: PurePosixPath) -> str:
        of_vocabulary = path.name in ("vectors", "key2row") and path.parent.name == "vocab"
        return path.name if of_vocabulary or (path.name == "meta.json" and len(path.parts) == 3) else ""

    found = dict(unpack_zip(wheel, place, LARGEST_VECTORS))
    try:
        meta = parse_json(found["meta.json"])
        name = f"{meta['lang']}_{meta['name']}"
        if name != OFFICIAL_MODEL:
            raise ValueError(f"it is {name}, not {OFFICIAL_MODEL}")
        model = WordVectors.read(found["vectors"], found["key2row"], f"spaCy {name} {meta['version']}")
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"no word vectors of {OFFICIAL_MODEL} can be read in it: {error}") from error
    associated = read_data(wheel.parent / "data" / "relation.json")
    table = make_pair_table(set(associated).union(*associated.values()), model)
    yield PAIRS, (json.dumps(table, indent=1) + "\n").encode()


def unpack_zip(archive: Path, place: Callable[[PurePosixPath], str], largest: int) -> Unpacked:
    """Yields the files of a zip archive under the names that `place` gives their paths, but for those it gives none.

    Raises EvaluationError, before anything is unpacked, for another file, and for an archive that holds links or
    devices, two files of one name, or more than `largest` bytes in one of them.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            members: dict[str, zipfile.ZipInfo] = {}
            for member in files.infolist():
                name = place(PurePosixPath(member.filename.replace("\\", "/")))
                if not member.is_dir() and name:
                    _check_member(name, member, members.setdefault(name, member), largest)
            if sum(member.file_size for member in members.values()) > LARGEST_ARCHIVE:
                raise EvaluationError(f"it unpacks to more than {LARGEST_ARCHIVE >> 30} GiB")
            for name, member in members.items():
                yield name, files.read(member)
    except EvaluationError:
        raise
    except _UNREADABLE as error:
        raise EvaluationError(
            f"what came is no zip archive that can be read ({error}); the place may want a browser (fetch it by hand, "
            f"and put the images into the folder {IMAGES!r})"
        ) from error


def _check_member(name: str, member: zipfile.ZipInfo, first: zipfile.ZipInfo, largest: int) -> None:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise EvaluationError(f"{name!r} in it is a link or a device, and no file")
    if member.file_size > largest:
        raise EvaluationError(f"{name!r} in it unpacks to {member.file_size:,} bytes, more than {largest:,}")
    if (member.CRC, member.file_size) != (first.CRC, first.file_size):
        raise EvaluationError(f"it holds two different files named {name!r}")


def unpack_questions(rows: Path) -> Unpacked:
    """Yields Object HalBench's questions, and the images that its file holds too; raises EvaluationError otherwise."""
    questions = []
    try:
        with rows.open(encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                row = parse_json(line)
                questions.append(json.dumps({name: row[name] for name in ("org_idx", "image_id", "question")}))
                name = f"COCO_val2014_{int(row['image_id']):012d}.jpg"
                yield f"{IMAGES}/{name}", base64.b64decode(row["image"], validate=True)
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"no questions of Object HalBench with their images ({error!r})") from error
    yield QUESTIONS, "".join(f"{question}\n" for question in questions).encode()
