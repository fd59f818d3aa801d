"""`mmdpo eval download`, `mmdpo data download`: data and images from their public places into a folder, checked.

    <data_dir>/<benchmark>/…             what `mmdpo eval` reads
                          /images/…      its images
                          /checksums.json
    data/vlfeedback_llava_10k.json       the paper's pairs, where its recipes look for them
        /merged_images/…
        /checksums.json

checksums.json holds the SHA-256 of everything. Where the project knows none (`pinned` is false) the first download
decides, and a later one that differs is an error. `fetch.py` gets one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.tasks import load
from mmdpo.evaluation.fetch import Check, FetchError, fetch, hash_file
from mmdpo.evaluation.preferences import PREFERENCES
from mmdpo.evaluation.sources import SOURCES, Archive, Data
from mmdpo.evaluation.unpacking import IMAGES
from mmdpo.files import printable, write_json
from mmdpo.registry import name_nearest

CHECKSUMS = "checksums.json"
_AT_ONCE = 8
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

Say = Callable[[str], None]


def download_all(chosen: Sequence[str], data_dir: Path | None, *, images: bool = True) -> None:
    """Fetches benchmarks, `all` for every one, each into its folder; raises as `_download_each`."""
    folder = data_dir or default_folder()
    _download_each(SOURCES, chosen, lambda name: folder / name, images=images)


def download_preferences(chosen: Sequence[str], folder: Path, *, images: bool = True) -> None:
    """Fetches published preference data into one folder; raises as `_download_each`."""
    _download_each(PREFERENCES, chosen, lambda name: folder, images=images)


def _download_each(
    sources: Mapping[str, Data], chosen: Sequence[str], place: Callable[[str], Path], *, images: bool
) -> None:
    """Fetches what is chosen, whatever fails; raises ValueError for another name or a failure."""
    unknown = set(chosen) - {*sources, "all"}
    if unknown:
        nearest = name_nearest(min(unknown), sources)
        told = ", ".join(sorted(unknown))
        raise ValueError(f"nothing to download for {told}{nearest} There are {', '.join(sources)}, all")
    failed = []
    for name in sources if "all" in chosen else dict.fromkeys(chosen):
        try:
            download(name, place(name), images=images, say=lambda line: print(printable(line)), sources=sources)
        except ValueError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise EvaluationError("; ".join(failed))


def default_folder() -> Path:
    """Returns the cache of benchmarks: a folder of HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "mmdpo" / "benchmarks"


def choose_data_dir(name: str, given: Path | None) -> Path:
    """Returns the folder that holds a benchmark's data: the given one, else the cache.

    Raises EvaluationError if that is no folder, or none is given and the data was not, or cannot be, downloaded.
    """
    if given is not None and not given.is_dir():
        raise EvaluationError(f"--data_dir {given}: no such folder")
    benchmark = load(name)
    data = benchmark.data_name
    if given is not None or benchmark.draw_image is not None:
        return given or Path()
    if data not in SOURCES:
        raise EvaluationError(
            f"the data of {name} is not fetched by this program, since no public place of its files is known; name the "
            "folder that has it (--data_dir), see docs/evaluation.md"
        )
    folder = default_folder()
    if not (folder / data).is_dir():
        raise EvaluationError(
            f"no data of {name} in {folder}: fetch it by `mmdpo eval download {data}`, or name the folder that has it "
            "(--data_dir)"
        )
    return folder


def download(name: str, folder: Path, *, images: bool = True, say: Say, sources: Mapping[str, Data] = SOURCES) -> None:
    """Fetches what is missing of a benchmark into its folder and checks what is there.

    Raises FetchError for a file that no place gives, or that has a wrong checksum; what came before is kept.
    EvaluationError where the disk takes no more.
    """
    data = sources[name]
    say(f"{name} → {folder}")
    for licence in data.licences:
        say(f"licence: {licence}")
    record = _Record.read(folder / CHECKSUMS)
    try:
        for file in data.files:
            _get(folder, file.path, file.addresses, file.sha256, record)
        for archive in data.archives:
            if images or not archive.only_images:
                _get_archive(folder, archive, record, say)
        if images and data.image_names is not None and data.image_address is not None:
            addresses = {f"{IMAGES}/{name}": data.image_address(name) for name in data.image_names(folder)}
            _get_images(folder, addresses, record)
    except OSError as error:
        raise EvaluationError(
            f"{folder}: cannot be written ({error.strerror}); what came before is kept: run the same command again"
        ) from error
    finally:
        record.write()
    say(f"{len(record.files):,} files are there and have their checksums")
    unpinned = [path for path, entry in record.files.items() if not entry["pinned"]]
    if unpinned:
        say(
            f"NOT PINNED BY THE PROJECT: {len(unpinned):,} of them ({unpinned[0]}, …). No checksum was known, so the "
            f"first download decided; {folder / CHECKSUMS} holds it, and a later one that differs is an error"
        )


@dataclass
class _Record:
    """checksums.json."""

    path: Path
    files: dict[str, dict[str, Any]]
    archives: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> _Record:
        """Raises EvaluationError for a file that is none that `write` has written."""
        content = read_data(path) if path.exists() else {}
        try:
            files, archives = dict(content.get("files", {})), dict(content.get("archives", {}))
            texts = [entry["sha256"] for entry in (*files.values(), *archives.values())]
            texts += [name for entry in archives.values() for name in entry["unpacked"]]
            is_whole = all(isinstance(text, str) for text in texts) and all("pinned" in e for e in files.values())
        except (AttributeError, KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise EvaluationError(f"{path}: holds no checksums; remove it, and the next download writes it anew")
        return cls(path, files, archives)

    def write(self) -> None:
        content = {"files": dict(sorted(self.files.items())), "archives": self.archives}
        # Left alone where nothing is new: the folder may be write-protected.
        if self.files and not (self.path.exists() and read_data(self.path) == content):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, content, indent=1)

    def expect(self, kind: Mapping[str, Mapping[str, Any]], key: str, pinned: str | None) -> tuple[str | None, str]:
        """Returns the checksum that something must have, and where that is written down."""
        if pinned is not None:
            return pinned, " (pinned by the project)"
        known = kind.get(key, {}).get("sha256")
        return known, f" (of the first download; if the file was changed on purpose, remove its entry in {self.path})"


def _get(
    folder: Path, path: str, addresses: Sequence[str], pinned: str | None, record: _Record, check: Check | None = None
) -> None:
    """Fetches one file, unless it is there; one that is there and has a wrong checksum is set aside first."""
    target = _place(folder, path)
    expected, whence = record.expect(record.files, path, pinned)
    if target.is_file():
        got = hash_file(target)
        if expected in (None, got):
            whose = record.files.get(path, {}).get("from", "found there")
            record.files[path] = {"sha256": got, "from": whose, "pinned": pinned is not None}
            return
        target.replace(target.with_name(f"{target.name}.wrong"))
    got, address = fetch(addresses, target, sha256=expected, whence=whence, check=check)
    record.files[path] = {"sha256": got, "from": address, "pinned": pinned is not None}


def _get_images(folder: Path, addresses: Mapping[str, str], record: _Record) -> None:
    with (
        ThreadPoolExecutor(_AT_ONCE) as threads,
        tqdm(total=len(addresses), desc=IMAGES, unit="image", disable=None) as bar,
    ):
        get = partial(_get, folder, pinned=None, record=record, check=_check_picture)
        asked = [threads.submit(get, path, (address,)) for path, address in addresses.items()]
        try:
            for future in asked:
                future.result()
                bar.update()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _check_picture(path: Path) -> None:
    with path.open("rb") as file:
        if not file.read(8).startswith(_PICTURES):
            raise EvaluationError("what came is neither JPEG nor PNG")


def _get_archive(folder: Path, archive: Archive, record: _Record, say: Say) -> None:
    """Fetches an archive and unpacks it, unless everything that was in it is there."""
    known = record.archives.get(archive.name, {}).get("unpacked", ())
    if known and all(
        (folder / path).exists() and hash_file(folder / path) == record.files.get(path, {}).get("sha256")
        for path in known
    ):
        return
    say(f"fetching {archive.name} ({archive.size})")
    target = folder / f".{archive.name.replace(' ', '_')}"
    expected, whence = record.expect(record.archives, archive.name, archive.sha256)
    unpacked: list[str] = []

    def unpack(path: Path) -> None:
        unpacked[:] = [_put(folder, archive, inside, content, record) for inside, content in archive.unpack(path)]
        if not unpacked:
            raise EvaluationError("there is nothing in it that was expected")

    got, address = fetch(archive.addresses, target, sha256=expected, whence=whence, check=unpack, show=True)
    target.unlink()
    entry = {"sha256": got, "from": address, "pinned": archive.sha256 is not None}
    record.archives[archive.name] = entry | {"unpacked": unpacked}


def _place(folder: Path, path: str) -> Path:
    """Returns where a file of a benchmark goes; raises FetchError for a path that leads out of its folder."""
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or "\\" in path:
        raise FetchError(f"{path!r} leads out of the folder of the data")
    return folder / inside


def _put(folder: Path, archive: Archive, inside: str, content: bytes, record: _Record) -> str:
    target = _place(folder, inside)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    got, pinned = hash_file(part), (archive.contents or {}).get(inside)
    if pinned is not None and got != pinned:
        wrong = part.replace(target.with_name(f"{target.name}.wrong"))
        raise FetchError(
            f"{inside} has a wrong checksum: expected SHA-256 {pinned} (pinned by the project), got {got}; what came "
            f"lies in {wrong}"
        )
    part.replace(target)
    record.files[inside] = {"sha256": got, "from": archive.name, "pinned": (pinned or archive.sha256) is not None}
    return inside
