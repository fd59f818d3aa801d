"""What values that are kept depend on, as digests: the run's side (model, processor, options), and a cell of a row.

Contents are hashed, never places: neither a path nor a row's number is part of a digest. xxHash is not meant against
somebody who builds collisions on purpose; against chance, 128 bits are enough.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from xxhash import xxh3_128

from mmdpo.data.collate import Collator
from mmdpo.data.images import digest_image, image_size
from mmdpo.data.items import FileStamp, Item, stamp_file
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import PromptText
from mmdpo.models.seams import attention_of
from mmdpo.models.trained import unwrap_adapter
from mmdpo.records import CORRUPTED, NO_IMAGE, Cell, ImageSource, image_versions, named_source
from mmdpo.scoring.logprobs import find_suppressed
from mmdpo.scoring.reference import AdapterOff

FORMAT = 1
"""Part of the fingerprint of a reference: raised when the same inputs would be scored differently."""

_INCIDENTAL = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "base_model_name_or_path", "inference_mode", "revision",
}  # fmt: skip
"""Settings of models and adapters that say where they came from, or that a trainer changes, and no score depends on."""


@dataclass(frozen=True)
class Fingerprint:
    """The run's side of a value that is kept: model, processor, precision, …, each by name."""

    components: Mapping[str, str]
    what: str = "references"
    """What the values are, for messages."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return _digest_json(dict(self.components))


@dataclass(frozen=True)
class CellKeys:
    """Digests the row's side: what a cell's prompt, images and answer say, and how its image is made.

    Needs no model, and opens images only where a row has some of another size; one object serves one pass, since it
    remembers the files that it has read.
    """

    prepare: Preparer
    stamps: dict[str, FileStamp] = field(default_factory=dict)
    """Of the files that were read, by path."""

    def __call__(
        self, item: Item, cells: tuple[Cell, ...], rendered: Mapping[bool, PromptText] | None = None
    ) -> tuple[bytes, ...]:
        """Returns a key of 16 bytes per cell; `rendered` is what `Preparer.render` returns for the item.

        Raises RowError for an image that cannot be read.
        """
        with named_source(item.example.source):
            texts = self.prepare.render(item) if rendered is None else rendered
            sizes = self._compare_sizes(item, image_versions(self.prepare.cells))
            return tuple(self._digest_cell(item, cell, texts, sizes) for cell in cells)

    def _digest_cell(self, item: Item, cell: Cell, rendered: Mapping[bool, PromptText], sizes: list[Any]) -> bytes:
        # Answers are tokenised after the prompt with images, if any version has them, whatever the cell's own is.
        tokenised = rendered[max(rendered)]
        content = [
            rendered[cell.image != NO_IMAGE].prompt,
            tokenised.prompt,
            tokenised.answers[cell.response],
            sizes,
            self._describe_image(item, cell.image),
        ]
        return xxh3_128(_encode(content)).digest()

    def _describe_image(self, item: Item, version: str) -> list[Any]:
        found = self.prepare.find_images(item.example, version)
        if found is not None:
            return [self._digest_image(image) for image in found]
        replacing = self._find_replacing(item, version)
        corruption = self.prepare.corruptions[version]
        regions = item.example.regions if corruption.needs_region else ()
        images = [self._digest_image(image) for image in item.example.images]
        drawn_for = item.example.id if self.prepare.corruption_draw == "row" else images
        marks = [region if isinstance(region, tuple) else self._digest_image(region) for region in regions]
        if self.prepare.corrupted_images != "all":
            marks.append(self.prepare.corrupted_images)
        return [
            images,
            [self._digest_image(image) for image in replacing],
            corruption.name,
            dict(corruption.options),
            digest_source(corruption.function),
            self.prepare.crop_space if version == CORRUPTED else "image",
            [self.prepare.seed, drawn_for, item.epoch],
            *([marks] if marks else []),
        ]

    def _find_replacing(self, item: Item, version: str) -> tuple[ImageSource, ...]:
        """Returns the images that stand in a context in place of the row's own; none if they are made from these."""
        found = self.prepare.find_images(item.example, version)
        if found is not None:
            return () if found is item.example.images else found
        needs_other = self.prepare.corruptions[version].needs_other_image
        return item.other_images if needs_other else ()

    def _compare_sizes(self, item: Item, versions: tuple[str, ...]) -> list[Any]:
        """Returns whether some context has images of the row's own sizes, and the sizes of those that differ.

        Answers are cut after the longest context, so that a cell depends on how many tokens its neighbours have.
        """
        replacing = {version: self._find_replacing(item, version) for version in versions if version != NO_IMAGE}
        has_own = not all(replacing.values())
        if not any(replacing.values()):
            return [bool(replacing)]
        limit = self.prepare.max_image_pixels
        own = [image_size(image, max_pixels=limit) for image in item.example.images]
        sizes = [[image_size(image, max_pixels=limit) for image in images] for images in replacing.values() if images]
        return [has_own or own in sizes, *sorted(size for size in sizes if size != own)]

    def _digest_image(self, source: ImageSource) -> str:
        if not isinstance(source, str | Path):
            return digest_image(source)
        path = str(source)
        if path not in self.stamps:
            self.stamps[path] = stamp_file(Path(path))
        return self.stamps[path].digest


@cache
def digest_source(function: Callable[..., Any]) -> str:
    """Returns the digest of the file that a corruption is written in: one that was edited makes other images."""
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return ""  # written at a prompt: its name has to do
    return xxh3_128(source.encode()).hexdigest()


def fingerprint_preparation(collator: Collator) -> Fingerprint:
    """Returns what decides, beside a row's content, whether it can be trained on and how many tokens it has."""
    prepare = collator.prepare
    packages = ("torch", "transformers", "tokenizers", "pillow", "numpy", "jinja2", "mmdpo")
    corruptions = {
        version: [made.name, dict(made.options), digest_source(made.function)]
        for version, made in prepare.corruptions.items()
    }
    settings = {field.name: getattr(part, field.name) for part in (prepare, collator) for field in fields(part)}
    described = {name: value for name, value in settings.items() if name not in ("prepare", "renderer")} | {
        "corruptions": corruptions,
        "suppressed": sorted(prepare.suppressed),
        "processor": digest_processor(prepare.renderer.processor),
        "family": type(prepare.renderer.family).__name__,
        "libraries": ", ".join(f"{package} {version(package)}" for package in packages),
        "code": _digest_code(),
    }
    return Fingerprint({name: _encode(value).decode() for name, value in described.items()}, "checks of rows")


@cache
def _digest_code() -> str:
    """Returns the digest of the source of all that prepares rows: another one may find other rows faulty."""
    root, total = Path(__file__).parents[1], xxh3_128()
    for folder in ("data", "corruption", "models/families"):
        for path in sorted((root / folder).rglob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()


def fingerprint_reference(reference: Any, collator: Collator, accelerator: Any) -> Fingerprint:
    """Returns what every value of a run depends on, beside its row."""
    model: Any = reference.scorer.model
    base = unwrap_adapter(model)
    if isinstance(reference, AdapterOff):
        adapters, weights = None, digest_weights(base, adapter_prefix=getattr(model.base_model, "prefix", None))
    else:
        is_on = model.active_adapters if base is not model else ()
        adapters, weights = {name: model.peft_config[name] for name in is_on}, digest_weights(model)
    device = accelerator.device.type
    with accelerator.autocast():  # asked where it counts: accelerate's own setting is shared by all trainers
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    tf32 = device == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    suppressed = find_suppressed(getattr(base, "generation_config", None))
    rows = "shared" if reference.scorer.shares_prefix else "separate"
    return Fingerprint(
        {
            "weights": weights,
            "model": describe_model(base, adapters),
            "processor": digest_processor(collator.prepare.renderer.processor),
            "precision": str(precision or base.dtype).removeprefix("torch."),
            "device": device,
            "tf32": "on" if tf32 else "off",
            "attention": f"{rows}, {attention_of(base.get_decoder())}",
            "max_length": str(collator.max_length),
            **({"suppressed": str(suppressed)} if suppressed else {}),
            "libraries": f"torch {torch.__version__}, transformers {transformers.__version__}",
            "format": str(FORMAT),
        }
    )


def digest_weights(model: nn.Module, *, adapter_prefix: str | None = None) -> str:
    """Returns the digest of all parameters and buffers: names, dtypes, shapes and bytes.

    With the `adapter_prefix` of PEFT (`lora_`) the adapter is left out, and names are those of the model without it.
    Raises ValueError for weights that are not in memory.
    """
    plain: dict[str, Any] = {}
    for name, value in {**dict(model.named_buffers()), **model.state_dict()}.items():
        parts = name.split(".")
        if adapter_prefix is not None:
            if "modules_to_save" in parts or any(part.startswith(adapter_prefix) for part in parts):
                continue
            parts = [part for part in parts if part not in ("base_layer", "original_module")]
        plain[".".join(parts)] = value
    total = xxh3_128()
    for name, value in sorted(plain.items()):
        if not isinstance(value, Tensor):
            total.update(f"\x1f{name}\x1f{value!r}".encode())
            continue
        if value.is_meta:
            raise ValueError(
                f"the weight {name} is not in memory, so that no cache can know it: set precompute_ref_log_probs: false"
            )
        total.update(f"\x1f{name}\x1f{value.dtype}\x1f{tuple(value.shape)}\x1f".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def describe_model(model: Any, adapters: Mapping[str, Any] | None = None) -> str:
    """Returns the class of a model, and the digest of its configuration and of those of the adapters that are on."""
    settings = [_essential(model.config.to_dict())]
    settings += [[name, _essential(adapter.to_dict())] for name, adapter in sorted((adapters or {}).items())]
    return f"{type(model).__name__} {_digest_json(settings)}"


def digest_processor(processor: Any) -> str:
    """Returns the digest of all that turns text and pictures into a model's inputs."""
    tokenizer = processor.tokenizer
    parts = (processor, tokenizer, processor.image_processor)
    content = {
        "classes": [type(part).__name__ for part in parts],
        "processor": _essential(processor.to_dict()),
        "image_processor": _essential(processor.image_processor.to_dict()),
        "chat_template": [getattr(part, "chat_template", None) for part in parts],
        "tokenizer": _describe_tokenizer(tokenizer),
    }
    return _digest_json(content)


def _describe_tokenizer(tokenizer: Any) -> list[Any]:
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [special, tokenizer.get_vocab(), _essential(tokenizer.init_kwargs)]
    rules = json.loads(backend.to_str())
    # How the last call padded and cut, which is not a property of the tokenizer.
    return [special, {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}]


def _essential(settings: Any) -> Any:
    """Leaves out, at every depth, what says where settings came from."""
    if isinstance(settings, Mapping):
        return {str(name): _essential(value) for name, value in settings.items() if name not in _INCIDENTAL}
    if isinstance(settings, set | frozenset):
        return sorted(map(str, settings))
    return settings


def _digest_json(content: Any) -> str:
    return xxh3_128(_encode(content)).hexdigest()


def _encode(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, default=str).encode()
