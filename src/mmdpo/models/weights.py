"""Weights of a checkpoint folder, every name and shape accounted for; they are read when they are used."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from xxhash import xxh3_128

SHOWN = 8  # names that an error lists
_SAMPLES, _SAMPLE_SIZE = 64, 65_536


class CheckpointError(ValueError):
    """A checkpoint, adapter or run folder that cannot be used: says which file or key, and how to mend it."""


def read_weights(folder: Path, *, allow_pickle: bool = False, of_adapter: bool = False) -> dict[str, Tensor]:
    """Returns the weights of a folder, mapped from their files: safetensors, one file or shards with an index.

    Raises CheckpointError for a folder without weights, pickled ones unless they are allowed, a file that is cut short
    or missing, and an index that does not say what the files hold.
    """
    stem, pickle_stem = ("adapter_model", "adapter_model") if of_adapter else ("model", "pytorch_model")
    single = f"{stem}.safetensors"
    if (folder / f"{single}.index.json").is_file() or (folder / single).is_file():
        return _read_files(folder, single, _load_safetensors)
    pickled = sorted(path.name for path in folder.glob(f"{pickle_stem}*.bin"))
    if not pickled:
        raise CheckpointError(f"{folder} holds no weights: neither {single}.index.json nor {single}")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds pickled weights alone ({', '.join(pickled[:SHOWN])}), and a pickle can run code when it "
            "is opened: take a checkpoint in safetensors, or allow it with allow_pickle (--allow_pickle)"
        )
    return _read_files(folder, f"{pickle_stem}.bin", _load_pickled)


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


def read_checkpoint_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises CheckpointError for one that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def _read_files(folder: Path, single: str, load: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    index = f"{single}.index.json"
    if not (folder / index).is_file():
        return load(folder / single)
    weight_map = read_checkpoint_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{folder / index}: the key 'weight_map' is missing")
    weights = dict[str, Tensor]()
    for file in sorted(set(weight_map.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / index} names {file}, which is not there: fetch it again")
        held = load(folder / file)
        named = [name for name, place in weight_map.items() if place == file]
        check_names(
            {name: held[name].shape if name in held else () for name in named},
            {name: tensor.shape for name, tensor in held.items()},
            f"{folder / file} does not hold what {index} says",
        )
        weights.update(held)
    return weights


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({error}): fetch it again") from error
    for name, tensor in weights.items():
        if tensor.dtype == torch.int8 or (tensor.is_floating_point() and tensor.dtype.itemsize == 1):  # quantised
            raise CheckpointError(f"{path}: {name} is of type {tensor.dtype}, which is not supported")
    return dict(weights)


def _load_pickled(path: Path) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be opened as plain tensors ({error})") from error
    return loaded


def digest_folder(folder: Path) -> str:
    """Returns the digest of a folder's weights: of sizes and blocks, since reading all of them takes long."""
    digest = xxh3_128()
    for path in sorted(file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name}\x1f{size}\x1f".encode())
        with path.open("rb") as file:
            for place in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_SIZE) * place // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_SIZE))
    return digest.hexdigest()
