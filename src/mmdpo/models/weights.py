"""Weights of a checkpoint folder: read one tensor at a time, mapped from their files, and written shard by shard."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED_SINGLE, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

SHARD_BYTES = 2_000_000_000
"""Largest file that is written, unless a single tensor is larger; so much is in memory at a time."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of element types in safetensors files; quantised ones are not converted."""

SHOWN = 8
"""How many names an error lists."""


class CheckpointError(ValueError):
    """A checkpoint, adapter or run folder that cannot be used: says which file or key, and how to mend it."""


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by name; each is read when it is asked for."""

    files: Mapping[str, Path]
    """Which file holds a tensor."""
    infos: Mapping[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """Returns a tensor, mapped from its file."""
        path = self.files[name]
        if path.suffix == ".bin":
            return _load_pickled(path)[name]
        # Opened anew for every tensor, so that what has been read does not stay mapped.
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def read_weights(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """Returns the weights of a folder: safetensors, one file or shards with an index.

    Raises CheckpointError for a folder without weights, pickled ones unless they are allowed, a file that is cut short
    or missing, and an index that does not say what the files hold.
    """
    if (folder / INDEX).is_file() or (folder / SINGLE).is_file():
        return _read_files(folder, INDEX, SINGLE, _list_safetensors)
    pickled = sorted(path.name for path in folder.glob("*.bin") if path.name.startswith("pytorch_model"))
    if not pickled:
        raise CheckpointError(f"{folder} holds no weights: neither {INDEX} nor {SINGLE}")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds pickled weights alone ({', '.join(pickled[:SHOWN])}), and a pickle can run code when it "
            "is opened: take a checkpoint in safetensors, or allow it with --allow_pickle"
        )
    return _read_files(folder, PICKLED_INDEX, PICKLED_SINGLE, _list_pickled)


def write_weights(
    folder: Path,
    infos: Mapping[str, TensorInfo],
    read: Callable[[str], Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors in the given order as safetensors, in files of up to `shard_bytes`, with an index if several.

    `read` is called once for each name; one file's tensors are in memory at a time.
    """
    shards = _part(infos, shard_bytes)
    count, weight_map = len(shards), {}
    for number, names in enumerate(shards, start=1):
        name = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        _write_file(folder / name, {key: infos[key] for key in names}, read)
        weight_map.update(dict.fromkeys(names, name))
    if count > 1:
        total = sum(info.bytes for info in infos.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `folder` at the end, or goes away if an error ends the writing.

    Raises CheckpointError where `folder` holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} holds something already: choose another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp lets nobody else in
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_names(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], where: str) -> None:
    """Raises CheckpointError, which lists them, for names that are missing or strange, and for other shapes."""
    strangers = sorted(set(found) - set(expected))
    missing = sorted(set(expected) - set(found))
    other = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and list(found[name]) != list(shape)
    ]
    parts = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unknown", strangers), ("of another shape", other))
        if names
    ]
    if parts:
        raise CheckpointError(f"{where}: {'; '.join(parts)}")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises CheckpointError for one that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as transformers does, indented and with a line break at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_files(
    folder: Path, index: str, single: str, list_tensors: Callable[[Path], dict[str, TensorInfo]]
) -> Weights:
    if not (folder / index).is_file():
        infos = list_tensors(folder / single)
        return Weights(dict.fromkeys(infos, folder / single), infos)
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{folder / index}: the key 'weight_map' is missing")
    files, infos = dict[str, Path](), dict[str, TensorInfo]()
    for file in sorted(set(weight_map.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / index} names {file}, which is not there: fetch it again")
        held = list_tensors(folder / file)
        named = {name for name, place in weight_map.items() if place == file}
        check_names(
            {name: held[name].shape if name in held else () for name in named},
            {name: info.shape for name, info in held.items()},
            f"{folder / file} does not hold what {index} says",
        )
        infos.update(held)
        files.update(dict.fromkeys(held, folder / file))
    return Weights(files, infos)


def _list_safetensors(path: Path) -> dict[str, TensorInfo]:
    infos = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise CheckpointError(f"{path}: {name} is of type {part.get_dtype()}, which is not supported")
                infos[name] = TensorInfo(tuple(part.get_shape()), DTYPES[part.get_dtype()])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({error}): fetch it again") from error
    return infos


def _list_pickled(path: Path) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in _load_pickled(path).items()}


def _load_pickled(path: Path) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be opened as plain tensors ({error})") from error
    return loaded


def _part(infos: Mapping[str, TensorInfo], shard_bytes: int) -> list[list[str]]:
    shards, used = [list[str]()], 0
    for name, info in infos.items():
        if shards[-1] and used + info.bytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += info.bytes
    return shards


def _write_file(path: Path, infos: Mapping[str, TensorInfo], read: Callable[[str], Tensor]) -> None:
    tensors = {name: read(name).contiguous() for name in infos}
    for name, tensor in tensors.items():
        if TensorInfo(tuple(tensor.shape), tensor.dtype) != infos[name]:
            raise CheckpointError(f"{name} was announced as {infos[name]} and is {tuple(tensor.shape)}")
    save_file(tensors, path, metadata={"format": "pt"})
