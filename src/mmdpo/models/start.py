"""Where a model comes from: a folder, a name of the hub or an embedded world, perhaps with a trained adapter on it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers.utils.peft_utils import find_adapter_config_file

from mmdpo.models.weights import CheckpointError, read_checkpoint_json
from mmdpo.world import find_world

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json")
"""Files of which a processor has one at least."""

UNSEALED = "checkpoint.json.partly"
"""File of a checkpoint that its run has not finished writing."""
WANTED = ("*.safetensors", "*.json", "merges.txt", "tokenizer.model", "*.jinja", "README.md")
"""Files that are fetched from the hub: no code, and nothing pickled unless that is allowed."""
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


@dataclass(frozen=True)
class LoadOptions:
    """How a model and its processor are opened, whatever for."""

    adapter: str | None = None
    """A trained adapter on the model: a folder, or a name of the hub."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained`: dtype (float32 unless given), revision, token, attn_implementation, …"""
    chat_template: str | None = None
    """A Jinja file, or `vicuna`; the processor's own unless given."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """Variables of the chat template, by name."""
    pad_to_square: bool = False
    """LLaVA-1.5: pad pictures to a square."""
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class Start:
    """What a name and its options mean: resolved once, then read by whoever opens the model or its processor."""

    name: str
    """As it was given."""
    base: str
    """What `from_pretrained` takes."""
    revision: str | None = None
    adapter: Path | None = None
    """Folder of the adapter on the base."""
    options: LoadOptions = LoadOptions()
    given: Any = None
    """The model itself, where a caller brings one."""

    @property
    def processor(self) -> str:
        """Where the processor lies: beside the adapter, where its run saved one, else beside the base."""
        saved = self.adapter is not None and any((self.adapter / name).is_file() for name in PROCESSOR_CONFIGS)
        return str(self.adapter) if saved else self.base

    @property
    def where(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` that say where the files are found."""
        return {"revision": self.revision or "main", "token": self.options.arguments.get("token")}

    @cached_property
    def config(self) -> Any:
        """The model's configuration. Raises what `load_config` raises."""
        from mmdpo.models.load import load_config

        return load_config(self) if self.given is None else self.given.config


def resolve_start(model: str | Any, options: LoadOptions = LoadOptions()) -> Start:
    """Returns what a name means: a model, or an adapter on one; either may be a folder or of the hub.

    The name may be that of the adapter itself, which then names its base. A model is its own start. Raises
    CheckpointError for an adapter that names no base, or another one than is given, and ValueError for options about
    loading beside a model that is there.
    """
    if not isinstance(model, str):
        _refuse_unread(options)
        return Start(str(model.config.name_or_path), str(model.config.name_or_path), options=options, given=model)
    name, base, where = model, resolve_world(model), options.arguments
    check_name(base)
    found = find_adapter_config_file(base, **{k: where[k] for k in ("revision", "token") if where.get(k) is not None})
    revision, folder = where.get("revision"), None
    if options.adapter is not None:
        if found is not None:
            raise CheckpointError(
                f"{base} is an adapter, and so is adapter_name_or_path: one of them has to be the base"
            )
        folder = find_folder(options.adapter, allow_pickle=options.allow_pickle)
        _check_base(folder, base)
    elif found is not None:
        folder = find_folder(base, revision=revision, allow_pickle=options.allow_pickle)
        base, revision = _find_base(folder, base), read_checkpoint_json(folder / ADAPTER_CONFIG).get("revision")
    if folder is not None:
        warn_of_others(folder)
    return Start(name, base, revision, folder, options)


def _refuse_unread(options: LoadOptions) -> None:
    """Raises ValueError for options that say how a model is loaded, which one that was loaded would leave unread."""
    arguments = [name for name, value in options.arguments.items() if value is not None]
    unread = ["adapter_name_or_path"] * (options.adapter is not None) + ["model_init_kwargs"] * bool(arguments)
    if unread:
        raise ValueError(
            f"{' and '.join(unread)}: they say how a model is loaded, and the model that is given was loaded already: "
            "load it that way, or give its name"
        )


def resolve_world(name: str) -> str:
    """Returns the name itself, or the folder of an embedded world's checkpoint; raises what `World.checkpoint` does."""
    world = find_world(name)
    return name if world is None else str(world.checkpoint)


def read_base_name(folder: Path) -> str | None:
    """Returns the name of the base that an adapter says it is for, None where it names none."""
    name = read_checkpoint_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return str(name) if name else None


def warn_of_others(folder: Path) -> None:
    """Warns where a folder of an adapter holds others, as PEFT saves those of other names than `default`."""
    if others := list_adapters_inside(folder):
        logger.warning(
            "%s holds other adapters beside the one that is used: to use such a one, name %s",
            folder,
            " or ".join(str(folder / name) for name in others),
        )


def list_adapters_inside(folder: Path) -> list[str]:
    """Returns the names of folders of adapters in a folder, checkpoints of a run left out."""
    found = (path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
    return sorted(name for name in found if not name.startswith("checkpoint-"))


def find_folder(name: str, *, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """Returns a local folder, or that of the cache where a hub name is fetched to; CheckpointError for neither."""
    folder = Path(name).expanduser()
    check_name(name)
    if folder.is_dir():
        return folder
    try:
        patterns = [*WANTED, *(PICKLED if allow_pickle else ())]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(explain_absence(name)) from error


def explain_absence(name: str) -> str:
    """Says of a name that is no folder, and that the hub did not give either, what it may be meant as."""
    folder = (
        f"If it is a folder that a conversion writes, convert first: mmdpo convert bunny BAAI/Bunny-v1_0-3B {name}. "
        if len(Path(name).parts) > 1
        else ""
    )
    return (
        f"there is no folder {name} here, and no model of that name could be fetched from the hub. {folder}If it is a "
        "hub name, look at its spelling, your connection (HF_HUB_OFFLINE), and, for a private model, your token"
    )


def check_name(name: str) -> None:
    """Raises CheckpointError for what can only be a folder and is none, and for a checkpoint that is unfinished."""
    folder = Path(name).expanduser()
    if (folder / UNSEALED).exists():
        raise CheckpointError(f"{folder} is a checkpoint that its run has not finished writing: use another one")
    if folder.is_dir():
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise CheckpointError(f"there is no folder {name}, and the hub has no names like this (owner/model)") from None


def _find_base(folder: Path, name: str) -> str:
    """Returns the base that an adapter names. Raises CheckpointError for one that names none, or none that is there."""
    named = read_base_name(folder)
    remedy = f"give it as model_name_or_path, and {name} as adapter_name_or_path"
    if named is None:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} names no base model: {remedy}")
    base = resolve_world(named)
    try:
        check_name(base)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base that {folder / ADAPTER_CONFIG} names: {error}. Where it lies elsewhere now, {remedy}"
        ) from error
    return base


def _check_base(folder: Path, name: str) -> None:
    """Raises CheckpointError where an adapter names another base: neither the same folder nor a copy or mirror."""
    named = read_base_name(folder)
    if named is None:
        return
    one, other = Path(resolve_world(named)), Path(name)
    if one.expanduser().resolve() != other.expanduser().resolve() and one.name != other.name:
        raise CheckpointError(
            f"the adapter in {folder} was trained on {named}, and model_name_or_path is {name}: give that base, or, if "
            f"both hold the same weights, write {name} as base_model_name_or_path into {folder / ADAPTER_CONFIG}"
        )
