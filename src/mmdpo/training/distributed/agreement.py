"""What the processes of a run agree on: what the main one has done for all, and that data and options are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from xxhash import xxh3_64, xxh3_128

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Items
from mmdpo.keys import list_deciding
from mmdpo.records import ImageSource, PreferenceExample
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

    Rows are compared by id, text, weights, and the names and sizes of their images: no image is opened. Every process
    must call it. A dataset without rows to look at, such as a stream, is compared by its name alone.
    """
    if args.distributed_state is None or args.distributed_state.num_processes == 1:
        return
    options = shared_options(args)
    rows = {name: _digest_rows(_rows_of(data)) for name, data in datasets.items() if data is not None}
    summary = {name: (len(digests), xxh3_128(b"".join(digests)).hexdigest()) for name, digests in rows.items()}
    everyone = gather_object([(options, summary)])
    first_options, first_summary = everyone[0]
    for rank, (other_options, other_summary) in enumerate(everyone):
        for key in first_options:
            if first_options[key] != other_options.get(key):
                raise DisagreementError(
                    f"the processes were given different options: {key} is {first_options[key]} on process 0 and "
                    f"{other_options.get(key)} on process {rank}. Start all of them with the same recipe and flags"
                )
        if list(first_summary) != list(other_summary):
            raise DisagreementError(
                f"the processes were given different datasets: {', '.join(first_summary)} on process 0 and "
                f"{', '.join(other_summary)} on process {rank}. {SAME_DATA}"
            )
    for name in first_summary:
        others = [rank for rank, (_, summary) in enumerate(everyone) if summary[name] != first_summary[name]]
        if others:  # seen by all, so that all take part in the next exchange
            found = gather_object([rows[name]])
            raise DisagreementError(_explain(name, _rows_of(datasets[name]), found, others[0]))


def shared_options(args: MDPOConfig) -> dict[str, str]:
    """Returns the options that all processes have to share, as text: all but those of a machine."""
    own = list_deciding("machine")
    return {key: _write(value) for key, value in args.to_dict().items() if key not in own}


def _rows_of(data: Any) -> PreferenceDataset | Any:
    """Returns the rows of a dataset that is not prepared yet, or is; none of a stream."""
    examples = data.examples if isinstance(data, Items) else data
    return examples if isinstance(examples, PreferenceDataset) else ()


def _explain(name: str, examples: Any, rows: list[list[bytes]], rank: int) -> str:
    ours, theirs = rows[0], rows[rank]
    place = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    source = examples.source_of(place) if place < len(examples) else ""
    where = f"row {place + 1}" + (f" ({source} on this process)" if source else "")
    return (
        f"the processes were given different data: {name} has {len(ours)} rows on process 0 and {len(theirs)} on "
        f"process {rank}, and the first that differs is {where}. {SAME_DATA}"
    )


def _digest_rows(examples: Any) -> list[bytes]:
    return [_digest_or_fault(examples, place) for place in range(len(examples))]


def _digest_or_fault(examples: PreferenceDataset, place: int) -> bytes:
    """Returns the digest of a row; that of one which cannot be read is empty: the check that comes next names it."""
    try:
        return digest_row(examples[place])
    except Exception:  # as broad as the check
        return b""


def digest_row(example: PreferenceExample) -> bytes:
    """Returns the digest of a row's id, texts, weights, and the names and sizes of its images; none is opened."""
    content = [
        example.id,
        example.prompt,
        dict(example.responses),
        dict(example.weights),
        [_describe_image(image) for image in example.images],
        [_describe_image(image) for image in example.rejected_images],
    ]
    return xxh3_64(_write(content).encode()).digest()


def _write(value: Any) -> str:
    # An object that JSON does not know may show its address, which is another one in each process.
    return json.dumps(value, sort_keys=True, default=lambda unknown: type(unknown).__name__)


def _describe_image(image: ImageSource) -> Any:
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, Image.Image):
        return image.size
    return str(image).replace("\\", "/").rpartition("/")[2]  # the folder may be another one on another machine
