"""Weights of a checkpoint folder: read one tensor at a time, mapped from their files, and written shard by shard.

What is known of a tensor before it is read, its shape and its dtype, is a tensor on torch's device `meta`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED_SINGLE, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

SHARD_BYTES = 2_000_000_000
"""Largest file that is written, unless a single tensor is larger; so much is in memory at a time."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Names of element types in safetensors files; quantised ones are not converted."""

SHOWN = 8
"""How many names an error lists."""


class CheckpointError(ValueError):
    """A checkpoint, adapter or run folder that cannot be used: says which file or key, and how to mend it."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by name; each is read when it is asked for."""

    files: Mapping[str, Path]
    """Which file holds a tensor."""
    shapes: Mapping[str, Tensor]
    """The tensors without their values."""

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
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise CheckpointError(f"{folder} holds no weights: neither {INDEX} nor {SINGLE}")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds pickled weights alone ({', '.join(pickled[:SHOWN])}), and a pickle can run code when it "
            "is opened: take a checkpoint in safetensors, or allow it with --allow_pickle"
        )
    return _read_files(folder, PICKLED_INDEX, PICKLED_SINGLE, _load_pickled)


def write_weights(
    folder: Path, shapes: Mapping[str, Tensor], read: Callable[[str], Tensor], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes tensors in the given order as safetensors, in files of up to `shard_bytes`, with an index if several.

    `read` is called once for each name; one file's tensors are in memory at a time.
    """
    shards = split_torch_state_dict_into_shards(dict(shapes), max_shard_size=shard_bytes)
    for file, names in shards.filename_to_tensors.items():
        tensors = {name: read(name).contiguous() for name in names}
        for name, tensor in tensors.items():
            if (tensor.shape, tensor.dtype) != (shapes[name].shape, shapes[name].dtype):
                raise CheckpointError(f"{name} was announced as {shapes[name]} and is {tuple(tensor.shape)}")
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        write_json(folder / INDEX, {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename})


def check_names(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], where: str) -> None:
    """Raises CheckpointError, which lists them, for names that are missing or strange, and for other shapes."""
    other = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and list(found[name]) != list(shape)
    ]
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unknown": sorted(set(found) - set(expected)),
        "of another shape": other,
    }
    parts = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
        for what, names in problems.items()
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


def _read_files(folder: Path, index: str, single: str, list_tensors: Callable[[Path], dict[str, Tensor]]) -> Weights:
    if (folder / index).is_file():
        weight_map = read_json(folder / index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / index}: the key 'weight_map' is missing")
    else:
        weight_map = None
    files, shapes = dict[str, Path](), dict[str, Tensor]()
    for file in [single] if weight_map is None else sorted(set(weight_map.values())):
        path = folder / file
        if weight_map is not None and not path.is_file():
            raise CheckpointError(f"{folder / index} names {file}, which is not there: fetch it again")
        held = {name: tensor.to("meta") for name, tensor in list_tensors(path).items()}
        if weight_map is not None:
            named = {name for name, place in weight_map.items() if place == file}
            check_names(
                {name: held[name].shape if name in held else () for name in named},
                {name: tensor.shape for name, tensor in held.items()},
                f"{path} does not hold what {index} says",
            )
        shapes.update(held)
        files.update(dict.fromkeys(held, path))
    return Weights(files, shapes)


def _list_safetensors(path: Path) -> dict[str, Tensor]:
    shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise CheckpointError(f"{path}: {name} is of type {part.get_dtype()}, which is not supported")
                shapes[name] = torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({error}): fetch it again") from error
    return shapes


def _load_pickled(path: Path) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be opened as plain tensors ({error})") from error
    return loaded
