"""Tries every row of a dataset before training, exactly as training will."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Item
from mmdpo.data.validate import (
    CheckResult,
    ExampleFacts,
    Fault,
    Inspect,
    require_images,
    summarise,
    try_rows,
    validate_example,
)
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError, response_names
from mmdpo.training.config import MDPOConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedData:
    """A dataset without its faulty rows, and those rows."""

    examples: Sequence[PreferenceExample]
    faults: tuple[Fault, ...] = ()
    lengths: tuple[int, ...] | None = None
    """Tokens of each example, prompt and answers; None where only the text was checked."""

    @classmethod
    def empty(cls) -> CheckedData:
        """Returns no examples and no faults."""
        return cls(())

    def with_faults(self, other: CheckedData) -> CheckedData:
        """Returns the same examples with the faults of another dataset added."""
        return replace(self, faults=self.faults + other.faults)


def check_data(dataset: Any, name: str, collator: Collator, args: MDPOConfig) -> CheckedData:
    """Returns the rows that can be trained on.

    Raises RowError with every faulty row unless `on_bad_row` is `skip`; raises ValueError where no row is left. Several
    processes share the rows, and every process must call it with the same ones.
    """
    examples = to_preferences(dataset, name, args)
    require_images(examples)
    inspect: Inspect = FullCheck(collator) if args.check_data == "full" else TextCheck(collator)
    result = _share_rows(examples, inspect, args)
    is_counted = args.check_data == "full"
    lengths = (
        tuple(f.prompt_tokens + (f.chosen_tokens or 0) + (f.rejected_tokens or 0) for f in result.facts)
        if is_counted
        else None
    )
    if not result.faults:
        return CheckedData(examples, lengths=lengths)
    if args.on_bad_row == "error":
        raise RowError(describe_faults(result.faults, len(examples)))
    if not result.good:
        raise ValueError(
            f"every row of {name} is faulty; the first: {result.faults[0].source}: {result.faults[0].problem}"
        )
    logger.warning("%s: %d of %d rows are faulty and skipped", name, len(result.faults), len(examples))
    return CheckedData(examples.select(result.good), result.faults, lengths)


def to_preferences(dataset: Any, name: str, args: MDPOConfig) -> PreferenceDataset:
    """Returns rows in any format as a PreferenceDataset."""
    if isinstance(dataset, PreferenceDataset):
        return dataset
    if isinstance(dataset, str | bytes | Path) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} is a {type(dataset).__name__}, not rows with a length; give a datasets.Dataset, list of rows or "
            "PreferenceDataset (a datasets.IterableDataset can be trained on, and nothing else be done with it)"
        )
    return PreferenceDataset.from_rows(dataset, name=name, format=args.dataset_format, image_root=args.image_root)


@dataclass(frozen=True)
class FullCheck:
    """Makes a batch of one example, and says how long it is and how large its images are."""

    collator: Collator

    def __call__(self, example: PreferenceExample) -> ExampleFacts:
        """Returns what was measured. Raises RowError for an example that cannot be trained on."""
        prepared = self.collator.prepare(Item(example, 0, other_images=example.images))
        batch = self.collator.collate([prepared])
        answers = {name: len(prepared.answers[name]) for name in response_names(self.collator.prepare.cells)}
        images = next(context.images for context in prepared.contexts.values())
        return ExampleFacts(
            prompt_tokens=int(batch["prompt_mask"].sum(1).max()),
            chosen_tokens=answers.get(CHOSEN),
            rejected_tokens=answers.get(REJECTED),
            image_sizes=tuple(image.size for image in images),
            unit="tokens",
        )


@dataclass(frozen=True)
class TextCheck:
    """Looks at what one example has, and opens none of its images."""

    collator: Collator

    def __call__(self, example: PreferenceExample) -> ExampleFacts:
        """Returns facts without lengths. Raises RowError for an example that cannot be trained on."""
        validate_example(example)
        self.collator.prepare.check_images(example)
        return ExampleFacts(prompt_tokens=0, chosen_tokens=0, rejected_tokens=0, image_sizes=(), unit="words")


def _share_rows(examples: PreferenceDataset, inspect: Inspect, args: MDPOConfig) -> CheckResult:
    """Tries every row, each in one process of the run, and returns on all of them what was found."""
    state, progress = args.distributed_state, not args.disable_tqdm
    processes, rank = (1, 0) if state is None else (state.num_processes, state.process_index)
    mine = range(rank, len(examples), processes)
    workers = args.dataset_num_proc or 1
    outcomes = try_rows(examples, mine, inspect, num_workers=workers, progress=progress and rank == 0)
    if processes > 1:
        everyone = gather_object([outcomes])
        # Row k was tried by process k mod n: one of each in turn, until the rows are used up.
        outcomes = [outcome for turn in itertools.zip_longest(*everyone) for outcome in turn if outcome is not None]
    return summarise(outcomes)


def describe_faults(faults: Sequence[Fault], rows: int, most: int = 20) -> str:
    """Returns one message that names every faulty row, up to `most` of them."""
    lines = [f"  {fault.source}: {fault.problem}" for fault in faults[:most]]
    if len(faults) > most:
        lines.append(f"  … and {len(faults) - most} more; `mmdpo data check` lists all")
    hint = " (on_bad_row: skip leaves them out)" if len(faults) < rows else ""
    head = f"{len(faults)} of {rows} rows cannot be trained on{hint}:"
    return "\n".join([head, *lines])
