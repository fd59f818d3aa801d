"""What processes of a run share: data and options, what rank 0 does, which references an engine can score."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from xxhash import xxh3_64, xxh3_128

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Items
from mmdpo.keys import list_deciding
from mmdpo.records import ImageSource, PreferenceExample
from mmdpo.scoring.reference import FrozenModel, LiveReference
from mmdpo.training.config import MDPOConfig

Outcome = TypeVar("Outcome")

SAME_DATA = (
    "Give every process the same files in the same order: one shared folder, one revision of a hub dataset, and no "
    "order that comes from listing a folder or from a set"
)


class DisagreementError(ValueError):
    """Processes of one run that were given different data or options."""


def on_main_process(function: Callable[[], Outcome], *, is_main: bool) -> Outcome:
    """Returns on every process what a function returns on the main one, which alone calls it, to touch the disk.

    Raises on every process what it raises there: OSError, ValueError. Every process must call it.
    """
    outcome: list[Any] = [None]
    if is_main:
        try:
            outcome = [function()]
        except (OSError, ValueError) as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]  # type: ignore[no-any-return]


def check_agreement(args: MDPOConfig, datasets: Mapping[str, Any]) -> None:
    """Raises DisagreementError, on every process, unless all have the same options and the same datasets.

    Rows are compared by id, text, weights, marks, and the names and sizes of their images: no image is opened. Every
    process must call it. A dataset without rows to look at, such as a stream, is compared by its name alone.
    """
    if args.distributed_state is None or args.distributed_state.num_processes == 1:
        return
    if found := find_difference(shared_options(args)):
        raise DisagreementError(
            f"the processes were given different options: {found}. Start all of them with the same recipe and flags"
        )
    given = {name: data.examples if isinstance(data, Items) else data for name, data in datasets.items()}
    examples: dict[str, Any] = {
        name: data if isinstance(data, PreferenceDataset) else () for name, data in given.items() if data is not None
    }
    if found := find_difference({"the list of datasets": ", ".join(examples)}):
        raise DisagreementError(f"the processes were given different datasets: {found}. {SAME_DATA}")
    rows = {name: [_digest_or_fault(mine, place) for place in range(len(mine))] for name, mine in examples.items()}
    if find_difference({name: (len(mine), xxh3_128(b"".join(mine)).hexdigest()) for name, mine in rows.items()}):
        for name, mine in rows.items():
            everyone = gather_object([mine])
            for rank, theirs in enumerate(everyone):
                if theirs != everyone[0]:
                    raise DisagreementError(_explain(name, examples[name], everyone[0], theirs, rank))


def shared_options(args: MDPOConfig) -> dict[str, str]:
    """Returns the options that all processes have to share, as text: all but those of a machine."""
    own = list_deciding("machine")
    return {key: _write(value) for key, value in args.to_dict().items() if key not in own}


def find_difference(mine: Mapping[str, Any]) -> str | None:
    """Returns in words the first value that differs between processes, None for none. Every process must call it."""
    everyone = gather_object([dict(mine)])
    for rank, other in enumerate(everyone):
        for key, value in everyone[0].items():
            if other.get(key) != value:
                return f"{key} is {value} on process 0 and {other.get(key)} on process {rank}"
    return None


def _explain(name: str, examples: Any, ours: list[bytes], theirs: list[bytes], rank: int) -> str:
    place = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    source = examples.source_of(place) if place < len(examples) else ""
    where = f"row {place + 1}" + (f" ({source} on this process)" if source else "")
    return (
        f"the processes were given different data: {name} has {len(ours)} rows on process 0 and {len(theirs)} on "
        f"process {rank}, and the first that differs is {where}. {SAME_DATA}"
    )


def _digest_or_fault(examples: PreferenceDataset, place: int) -> bytes:
    """Returns the digest of a row; that of one which cannot be read is empty: the check that comes next names it."""
    try:
        return digest_example(examples[place]) + digest_marks(examples[place])
    except Exception:  # as broad as the check
        return b""


def digest_example(example: PreferenceExample, read: Collection[str] | None = None) -> bytes:
    """Returns the digest of a row's id, texts, weights, and the names and sizes of its images; none is opened.

    Where the columns that are `read` are given, texts and weights of others are no part of it.
    """
    content = [
        example.id,
        example.prompt,
        {name: text for name, text in example.responses.items() if read is None or name in read},
        {name: weight for name, weight in example.weights.items() if read is None or name in read},
        [_describe_image(image) for image in example.images],
        [_describe_image(image) for image in example.rejected_images],
    ]
    return xxh3_64(_write(content).encode()).digest()


def digest_marks(example: PreferenceExample) -> bytes:
    """Returns the digest of what a row says of its corrupted image: where, and whether; no mask is opened."""
    regions = [region if isinstance(region, tuple) else _describe_image(region) for region in example.regions]
    return xxh3_64(_write([regions, example.is_corrupted]).encode()).digest()


def _write(value: Any) -> str:
    # An object that JSON does not know may show its address, which is another one in each process.
    return json.dumps(value, sort_keys=True, default=lambda unknown: type(unknown).__name__)


def _describe_image(image: ImageSource) -> Any:
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, Image.Image):
        return image.size
    return str(image).replace("\\", "/").rpartition("/")[2]  # the folder may be another one on another machine


def check_engine(accelerator: Any, reference: LiveReference, *, is_cached: bool, is_live: bool) -> None:
    """Raises ValueError, saying what to change, where the run's engine cannot score the run's references.

    `is_cached` and `is_live` say whether cells are scored before training, and while the policy moves; there may be
    both.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        if is_live and isinstance(reference, FrozenModel):
            raise ValueError(
                "DeepSpeed ZeRO-3 partitions the policy alone, and a second model beside it cannot be scored: train an "
                "adapter, whose reference is the policy without it, set precompute_ref_log_probs: true, or take FSDP2 "
                "or ZeRO-2"
            )
        if is_cached and any(hasattr(parameter, "ds_id") for parameter in reference.scorer.model.parameters()):
            raise ValueError(
                "precompute_ref_log_probs: DeepSpeed has partitioned the weights while they were loaded, and the pass "
                "before training needs them whole: set zero3_init_flag: false in the configuration of accelerate, or "
                "train an adapter with precompute_ref_log_probs: false"
            )
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None and fsdp.cpu_ram_efficient_loading and is_cached:
        raise ValueError(
            "precompute_ref_log_probs: with cpu_ram_efficient_loading the first process alone has the weights before "
            "training, and the pass needs them in all: turn one of the two off"
        )
