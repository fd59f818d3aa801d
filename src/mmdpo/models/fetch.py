"""Finds the folder of a checkpoint: one that is there, or one of the hub, weights and small files alone."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mmdpo.models.weights import CheckpointError

WANTED = ("*.safetensors", "*.json", "merges.txt", "tokenizer.model", "*.jinja", "README.md")
"""Files that are fetched: no code, and nothing pickled."""

PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


def find_folder(name: str, *, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """Returns a local folder as it is, and downloads a hub name (`owner/model`) into the hub's cache.

    Raises CheckpointError for a name that is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    check_name(name)
    try:
        patterns = [*WANTED, *(PICKLED if allow_pickle else ())]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} is no folder, and cannot be fetched from the hub ({type(error).__name__}: {error})"
        ) from error


def check_name(name: str) -> None:
    """Raises CheckpointError for what can only be a folder, and is none."""
    if Path(name).is_dir():
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise CheckpointError(f"there is no folder {name}, and the hub has no names like this (owner/model)") from None
