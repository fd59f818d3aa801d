"""Where a run starts: a base model, plain or quantised, and the adapter that it goes on with, if any."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

from mmdpo.models.adapter_files import ADAPTER_CONFIG, attach_adapter, read_adapter, read_base_name
from mmdpo.models.families import find_family
from mmdpo.models.fetch import check_name, find_folder
from mmdpo.models.weights import CheckpointError, read_json
from mmdpo.world.worlds import find_world

if TYPE_CHECKING:
    from mmdpo.training.config import MDPOConfig

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Start:
    """What `model_name_or_path` and `adapter_name_or_path` mean."""

    base: str
    """What `from_pretrained` takes."""
    revision: str | None = None
    """Branch, tag or commit of a base of the hub."""
    adapter: Path | None = None
    """Folder of the adapter that is trained further."""

    @property
    def processor(self) -> str:
        """Where the processor lies: beside the adapter, where its run saved one, else beside the base."""
        saved = self.adapter is not None and any((self.adapter / name).is_file() for name in PROCESSOR_FILES)
        return str(self.adapter) if saved else self.base


def find_start(name: str, args: MDPOConfig) -> Start:
    """Returns where a run starts: a model, or an adapter on one; either name may be a folder or of the hub.

    `name` may be the adapter itself, which then names its base. Raises CheckpointError for an adapter that names no
    base, or another one than `name`.
    """
    name, options = resolve_model(name), dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    check_name(name)
    found = find_adapter_config_file(name, **where)
    if args.adapter_name_or_path is None:
        if found is None:
            return Start(name, options.get("revision"))
        folder = find_folder(name, revision=options.get("revision"), allow_pickle=args.allow_pickle)
        base = read_base_name(folder)
        if base is None:
            raise CheckpointError(
                f"{folder / ADAPTER_CONFIG} names no base model: give it as model_name_or_path, and {name} as "
                "adapter_name_or_path"
            )
        try:
            check_name(resolve_model(base))
        except CheckpointError as error:
            raise CheckpointError(
                f"the base that {folder / ADAPTER_CONFIG} names: {error}. Where it lies elsewhere now, give it as "
                f"model_name_or_path, and {name} as adapter_name_or_path"
            ) from error
        return Start(resolve_model(base), read_json(folder / ADAPTER_CONFIG).get("revision"), folder)
    if found is not None:
        raise CheckpointError(f"{name} is an adapter, and so is adapter_name_or_path: one of them has to be the base")
    folder = find_folder(args.adapter_name_or_path, allow_pickle=args.allow_pickle)
    base = read_base_name(folder)
    if base is not None and not _is_same_model(resolve_model(base), name):
        raise CheckpointError(
            f"the adapter in {folder} was trained on {base}, and model_name_or_path is {name}: give that base, or, if "
            f"both hold the same weights, write {name} as base_model_name_or_path into {folder / ADAPTER_CONFIG}"
        )
    return Start(name, options.get("revision"), folder)


def resolve_model(name: str) -> str:
    """Returns what `from_pretrained` takes: the name itself, or the folder of an embedded world's checkpoint.

    Raises FileNotFoundError for a world whose checkpoint has yet to be built.
    """
    world = find_world(name)
    return name if world is None else str(world.checkpoint)


def continue_adapter(model: Any, start: Start, args: MDPOConfig, parts: Collection[str]) -> Any:
    """Returns the model with the start's adapter on it, to be trained further on the named parts of the model alone.

    Raises CheckpointError for an adapter that does not fit the model, or cannot be read.
    """
    assert start.adapter is not None
    tensors = read_adapter(start.adapter, allow_pickle=args.allow_pickle)
    adapted = attach_adapter(model, start.adapter, tensors, base=start.base, is_trained=True)
    freeze_others(adapted, parts)
    return adapted


def freeze_others(adapted: Any, parts: Collection[str]) -> None:
    """Keeps what an adapter has on other parts of the model than those that are named as it is."""
    base = unwrap_adapter(adapted)
    located = find_family(base.config).locate_parts(base)
    for name, parameter in base.named_parameters():
        if located.part_of(name) not in parts:
            parameter.requires_grad_(False)


def unwrap_adapter(model: Any) -> Any:
    """Returns the model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_added(model: nn.Module) -> frozenset[str]:
    """Returns the names of the parameters that switching an adapter off takes out of the model again."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    added = set[str]()
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            kept = module.get_base_layer()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            kept = module.original_module
        else:
            continue
        own = {id(parameter) for parameter in kept.parameters()}
        added |= {f"{path}.{name}" for name, parameter in module.named_parameters() if id(parameter) not in own}
    return frozenset(added)


def is_undone_by_switching_off(model: nn.Module) -> bool:
    """Says whether the model with its adapter off is its start: a LoRA that changes nothing yet, and moves alone.

    Every LoRA B is still zero, and nothing is trained that PEFT would leave in the model: biases of the base
    (`bias: all`) stay where they are. Of other kinds of adapters nothing is known.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    up = [p for layer in layers for held in (layer.lora_B, layer.lora_embedding_B) for p in held.parameters()]
    added = find_added(model)
    moves_alone = all(name in added for name, p in model.named_parameters() if p.requires_grad)
    return bool(up) and moves_alone and not any(bool(p.any()) for p in up)


def count_bits(model: Any) -> int | None:
    """Returns 8 or 4 for a model with quantised weights, None for one without."""
    if getattr(model, "is_loaded_in_8bit", False):
        return 8
    return 4 if getattr(model, "is_quantized", False) else None


def check_quantised(bits: int | None, args: MDPOConfig, *, has_adapter: bool) -> None:
    """Raises ValueError for quantised weights without an adapter, and for 8 bits with a reference that was cached."""
    if bits is not None and not has_adapter:
        raise ValueError(
            "the weights are quantised (load_in_4bit, load_in_8bit), and quantised weights cannot move: train an "
            "adapter on them with use_peft: true"
        )
    # Which columns of the activations stay in 16 bits depends on all tokens that are computed together.
    if bits == 8 and args.precompute_ref_log_probs:
        raise ValueError(
            "load_in_8bit: a row's log-probabilities depend a little on the rows beside it, so that those which were "
            "scored before training do not fit: set precompute_ref_log_probs: false, or take load_in_4bit"
        )


def _is_same_model(one: str, other: str) -> bool:
    """Says whether two names may mean one model: the same folder, or the same last part (a copy, a mirror)."""
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve() or Path(one).name == Path(other).name
