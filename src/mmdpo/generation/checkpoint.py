"""The model that answers: a hub name, a folder, or a run of `mmdpo train`, opened as training opens it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available
from xxhash import xxh3_128

from mmdpo.data.tokenise import Renderer
from mmdpo.files import read_mapping
from mmdpo.generation import CheckpointOptions
from mmdpo.models.families import find_family
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.seams import commit_of
from mmdpo.models.start import ADAPTER_CONFIG, UNSEALED, LoadOptions, Start, resolve_start
from mmdpo.models.trained import unwrap_adapter
from mmdpo.models.weights import digest_folder


@dataclass(frozen=True)
class Checkpoint:
    """A model, perhaps with an adapter on it, and how it is opened. Nothing is loaded before it is asked for."""

    model: str
    """A hub name, a folder, `world`, or a run that trained an adapter, which names its base."""
    options: CheckpointOptions = field(default_factory=CheckpointOptions)

    @cached_property
    def dtype(self) -> str:
        """The precision that is asked for, else bfloat16 on a GPU that has it."""
        return self.options.dtype or ("bfloat16" if is_torch_bf16_gpu_available() else "float32")

    @cached_property
    def load_options(self) -> LoadOptions:
        """How it is opened. Raises ValueError for variables of the chat template that are no JSON mapping."""
        return LoadOptions(
            adapter=self.options.adapter,
            arguments={"dtype": self.dtype, "revision": self.options.revision},
            chat_template=self.options.chat_template,
            chat_template_kwargs=read_mapping("chat_template_kwargs", self.options.chat_template_kwargs),
            pad_to_square=self.options.pad_to_square,
            trust_remote_code=self.options.trust_remote_code,
            allow_pickle=self.options.allow_pickle,
        )

    @cached_property
    def start(self) -> Start:
        """Where base, adapter and processor lie.

        Raises FileNotFoundError for a folder without a model, CheckpointError for an adapter of another model.
        """
        folder = Path(self.model).expanduser()
        if not folder.is_dir() and (folder.is_absolute() or self.model.startswith(".")):
            raise FileNotFoundError(f"{folder}: there is no such folder to load a model from")
        if folder.is_dir() and not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
            inside = sorted(path.name for path in folder.glob("checkpoint-*") if not (path / UNSEALED).exists())
            hint = f"; name one of its checkpoints: {', '.join(inside)}" if inside else ""
            raise FileNotFoundError(f"{folder} holds neither config.json nor {ADAPTER_CONFIG}{hint}")
        return resolve_start(self.model, self.load_options)

    def describe(self) -> dict[str, Any]:
        """Returns what answers depend on: names, digests of local weights or the hub's commit, precision, template.

        Raises what `start` raises, OSError for no such model, ValueError for one that is no vision-language model.
        """
        variables = self.load_options.chat_template_kwargs
        config, adapter, base = self.start.config, self.start.adapter, Path(self.start.base)
        return {
            "model": self.model,
            "weights": digest_folder(base) if base.is_dir() else commit_of(config),
            "adapter": self.options.adapter,
            "adapter_weights": None if adapter is None else digest_folder(adapter),
            "dtype": self.dtype,
            "chat_template": _describe_template(self.options.chat_template),
            "pad_to_square": self.options.pad_to_square,
            # Only where there are some: answers that were begun without the option can be resumed.
            **({"chat_template_kwargs": variables} if variables else {}),
        }

    def load_renderer(self) -> Renderer:
        """Returns the processor with what its family adds to it; raises what `describe` raises."""
        return Renderer(load_processor(self.start), find_family(self.start.config))

    def load(self) -> Any:
        """Returns the model for generating, its adapter in place; raises what loading for training raises."""
        return unwrap_adapter(load_model(self.start)).eval()


def _describe_template(given: str | None) -> str | None:
    """Returns the name of a chat template and, of a file, which may be edited under its name, a digest of its text."""
    if given in (None, "vicuna") or not (file := Path(str(given))).is_file():
        return given
    return f"{given} ({xxh3_128(file.read_bytes()).hexdigest()})"
