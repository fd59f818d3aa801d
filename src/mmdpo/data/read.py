"""Reads a preference dataset from a file, a folder or the hub: all of it, or as a stream."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from mmdpo.data.dataset import ArrowRows, PreferenceDataset
from mmdpo.data.stream import PreferenceStream
from mmdpo.files import irregular_kind
from mmdpo.records import RowError

_SAVED_ONE, _SAVED_SEVERAL = "state.json", "dataset_dict.json"
ONE_SPLIT = "train"
"""What the split of a dataset that has one is called."""
_STREAMED = {".parquet": "parquet", ".tar": "webdataset"}


def read_dataset(
    path_or_name: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    format: str = "auto",
    image_root: str | Path | None = None,
) -> PreferenceDataset:
    """Reads a preference dataset.

    `path_or_name` is a `.json` (an array of rows, `{"data": [...]}`, or one row a line), `.jsonl`, `.parquet` or `.tar`
    (WebDataset) file, a pattern such as `pairs-*.tar` that names several of the last two, a folder written by
    `save_to_disk`, a folder that holds such a file named after the split or that `load_dataset` understands (images
    with a metadata file), or the name of a dataset on the hub. What is no dataset of splits (`has_splits`) has `train`
    alone. Relative image paths are joined to `image_root`, else to the files' folder.

    Raises FileNotFoundError where there is no such file or folder; RowError, which names file and line, where a line of
    a JSON file is malformed; ValueError where the file or folder cannot be read, split or configuration do not exist,
    or the columns are in no known format.
    """
    found = open_rows(path_or_name, split=split, config=config)
    return PreferenceDataset.from_rows(found.rows, name=found.name, format=format, image_root=image_root or found.root)


def has_splits(path_or_name: str | Path) -> bool:
    """Returns whether a dataset may have several splits: one file, a pattern and one saved dataset are what they are.

    >>> has_splits("pairs-*.parquet"), has_splits("HuggingFaceH4/rlaif-v_formatted")
    (False, True)
    """
    path = Path(path_or_name).expanduser()
    return not (path.is_file() or glob.has_magic(str(path_or_name)) or (path / _SAVED_ONE).is_file())


def only_split(path_or_name: str | Path, split: str) -> str:
    """Returns a split to evaluate on: `test`, the default, means the whole of what has one split."""
    return ONE_SPLIT if split == "test" and not has_splits(path_or_name) else split


def check_names(path_or_name: str | Path, split: str, config: str | None, *, key: str = "split") -> None:
    """Raises ValueError, which names the key, for a split or a configuration that a file cannot have."""
    if has_splits(path_or_name):
        return
    kind = "one saved dataset" if Path(path_or_name).expanduser().is_dir() else "a file"
    if split != ONE_SPLIT:
        raise ValueError(
            f"{path_or_name}: {key} is {split!r}, and {kind} has the split {ONE_SPLIT} alone: leave {key} out"
        )
    _refuse_config(path_or_name, config)


def _refuse_config(path_or_name: str | Path, config: str | None) -> None:
    if config is not None:
        raise ValueError(
            f"{path_or_name}: dataset_config is {config!r}, and only what `datasets` itself reads has configurations: "
            "leave dataset_config out"
        )


class FoundRows(NamedTuple):
    """Rows as they were read."""

    rows: Any
    name: str
    """For messages."""
    root: Path | None
    """Folder that relative paths start from, None for the hub."""


def open_rows(path_or_name: str | Path, *, split: str = "train", config: str | None = None) -> FoundRows:
    """Reads rows of any kind from what `read_dataset` reads, images as they are stored; raises what it raises."""
    name = str(path_or_name)
    path = Path(path_or_name).expanduser()
    root: Path | None = path.parent
    rows: Any
    _check_readable(path, name)
    check_names(path_or_name, split, config)
    if path.is_file():
        rows = _read_file(path, name)
    elif shards := _find_shards(path, name):
        root, kind = Path(shards[0]).parent, _shard_kind(shards, name)
        rows = _load(name, lambda: datasets.load_dataset(kind, data_files=shards, split="train"))
    elif path.is_dir():
        root = path
        inside = next((file for ending in _READERS if (file := path / f"{split}{ending}").is_file()), None)
        if inside or (path / _SAVED_SEVERAL).is_file():
            _refuse_config(inside or path, config)
        rows = _read_file(inside, str(inside)) if inside else _load(name, lambda: _load_folder(path, split, config))
        name = str(inside) if inside else f"{name}[{split}]"
    elif path.suffix in _READERS or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name}: there is no such file or folder")
    else:
        root = None
        rows = _load(name, lambda: datasets.load_dataset(name, config, split=split))
        name = f"{name}[{split}]"
    return FoundRows(ArrowRows(rows) if isinstance(rows, datasets.Dataset) else rows, name, root)


def read_stream(
    path_or_name: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    format: str = "auto",
    image_root: str | Path | None = None,
) -> PreferenceStream:
    """Opens a preference dataset that is larger than memory or disk; its rows are read while it is trained on.

    `path_or_name` is a `.parquet` or `.tar` (WebDataset) file, a pattern such as `pairs-*.tar` that names several, a
    folder that `load_dataset` understands, or the name of a dataset on the hub. Files that are named have the split
    `train` alone. Relative image paths are joined to `image_root`, else to the files' folder.

    Raises FileNotFoundError where there is no such file or folder, or no file fits the pattern; RowError where the
    first shard cannot be read; ValueError where the files cannot be streamed, split or configuration do not exist,
    or the columns are in no known format.
    """
    name = str(path_or_name)
    path = Path(path_or_name).expanduser()
    _check_readable(path, name)
    check_names(path_or_name, split, config)
    files = [str(path)] if path.is_file() else _find_shards(path, name)
    root: Path | None = None
    if files:
        root, kind = Path(files[0]).parent, _shard_kind(files, name)
        builder = _load(name, lambda: datasets.load_dataset_builder(kind, data_files=files))
    elif not path.is_dir() and (path.suffix in _STREAMED or name.startswith((".", "/", "~"))):
        raise FileNotFoundError(f"{name}: there is no such file or folder, and no file that fits the pattern")
    else:
        root = path if path.is_dir() else None
        if root:
            _check_folder(root)
        builder = _load(name, lambda: datasets.load_dataset_builder(str(path) if root else name, config))
    rows = _load(name, lambda: builder.as_streaming_dataset(split=split))
    shards = (builder.config.data_files or {}).get(split)
    return PreferenceStream.from_rows(
        rows,
        name=name if files else f"{name}[{split}]",
        format=format,
        image_root=image_root or root,
        shard_names=shards,
    )


def _find_shards(path: Path, name: str) -> list[str]:
    """Returns the files that fit a pattern, sorted; none where `name` is no pattern."""
    files = sorted(glob.glob(str(path))) if glob.has_magic(name) else []  # noqa: PTH207
    for file in files:
        _check_readable(Path(file), file)
    return files


def _shard_kind(files: Sequence[str], name: str) -> str:
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) > 1 or not kinds <= _STREAMED.keys():
        raise ValueError(
            f"{name}: files ending in {', '.join(sorted(kinds))} are not read as shards: give .parquet or .tar"
        )
    return _STREAMED[kinds.pop()]


def _check_folder(folder: Path) -> None:
    """Raises ValueError for a pipe or a device in a folder, which `datasets` would open and wait for."""
    for path in folder.rglob("*"):
        _check_readable(path, str(path))


def _check_readable(path: Path, name: str) -> None:
    """Raises ValueError where a path exists and is neither a regular file nor a folder."""
    kind = irregular_kind(path) if path.exists() else None
    if kind not in (None, "a folder"):
        raise ValueError(f"{name}: this is {kind}, which is not read: give a file or a folder")


def _read_file(path: Path, name: str) -> Any:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{name}: files of this kind are not read: convert it to one of {', '.join(_READERS)}")
    return reader(path, name)


def _read_json(path: Path, name: str) -> list[Any]:
    text = _read_text(path, name)
    try:
        content = json.loads(text)
    except (RecursionError, ValueError) as error:
        if not isinstance(error, json.JSONDecodeError):
            raise ValueError(f"{name}: {_explain(error)}") from error
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return list(_parse_lines(text, name))
        raise RowError(_explain(error), source=f"{name}, line {error.lineno}") from error
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise ValueError(f'{name}: this is {type(content).__name__}: write an array of rows, or {{"data": [...]}}')
    return content


def _read_shard(path: Path, name: str) -> Any:
    kind = _STREAMED[path.suffix.lower()]
    return _load(name, lambda: datasets.load_dataset(kind, data_files=str(path), split="train"))


_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".jsonl": lambda path, name: list(_parse_lines(_read_text(path, name), name)),
    ".json": _read_json,
    ".parquet": _read_shard,
    ".tar": _read_shard,
}


def _read_text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: this is not UTF-8 at byte {error.start}: save the file as UTF-8") from error


def _parse_lines(text: str, name: str) -> Iterator[Any]:
    """Yields one row a line; the json module rather than Arrow, which refuses rows whose columns differ."""
    # Not splitlines, which would break a row at the Unicode line separators that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (RecursionError, ValueError) as error:
                raise RowError(_explain(error), source=f"{name}, line {number}") from error


def _explain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "this JSON is nested too deep: mend or remove the line"
    if not isinstance(error, json.JSONDecodeError):
        return f"this JSON is not read ({error}): mend or remove the line"  # an integer of thousands of digits
    return f"this is not JSON ({error.msg} at column {error.colno}): mend or remove the line"


def _load_folder(path: Path, split: str, config: str | None) -> Any:
    if not any((path / file).is_file() for file in (_SAVED_ONE, _SAVED_SEVERAL)):
        _check_folder(path)
        return datasets.load_dataset(str(path), config, split=split)
    loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split not in loaded:
        raise ValueError(f"there is no split {split!r}, only {', '.join(loaded)}")
    return loaded[split]


def _load(name: str, load: Callable[[], Any]) -> Any:
    """Runs a loader of `datasets`, whose errors come in many types, and names the dataset in what it raises."""
    try:
        return load()
    # Its readers raise nearly anything, a RuntimeError for a folder with a loading script, for one.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{name}: cannot be read as a dataset ({reason}). Give a .json, .jsonl, .parquet or .tar "
            "file, a folder saved by `datasets` or of images with metadata, or the name of a dataset on the hub"
        ) from error
