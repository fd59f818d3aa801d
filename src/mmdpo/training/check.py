"""Tries every row of a dataset before training, exactly as training will."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Item
from mmdpo.data.validate import ExampleFacts, Fault, find_faults, validate_example
from mmdpo.examples import CHOSEN, PreferenceExample, RowError, response_names
from mmdpo.training.config import MDPOConfig

logger = logging.getLogger(__name__)

NO_FILE = re.compile(r"^image file .* does not exist")
"""How a fault begins that is about a missing image alone."""


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

    Raises RowError with every faulty row unless `on_bad_row` is `skip`; raises ValueError where no row is left.
    """
    examples = to_preferences(dataset, name, args)
    inspect = inspect_fully(collator) if args.check_data == "full" else inspect_text(collator)
    result = find_faults(examples, inspect, num_workers=args.dataset_num_proc or 1, progress=not args.disable_tqdm)
    is_counted = args.check_data == "full"
    lengths = tuple(f.prompt_tokens + f.chosen_tokens + f.rejected_tokens for f in result.facts) if is_counted else None
    if not result.faults:
        return CheckedData(examples, lengths=lengths)
    if args.on_bad_row == "error":
        raise RowError(describe_faults(result.faults, len(examples), image_root=args.image_root))
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
    if not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} is a {type(dataset).__name__} without a length; give a datasets.Dataset, a list of rows or a "
            "PreferenceDataset (a datasets.IterableDataset can be trained on, and nothing else be done with it)"
        )
    return PreferenceDataset.from_rows(dataset, name=name, format=args.dataset_format, image_root=args.image_root)


def inspect_fully(collator: Collator) -> Callable[[PreferenceExample], ExampleFacts]:
    """Returns a function that makes a batch of one example, and says how long it is and how large its images are."""
    tokenising = threading.Lock()  # fast tokenizers are not safe to share between threads

    def inspect(example: PreferenceExample) -> ExampleFacts:
        item = Item(example, 0, other=example)
        with tokenising:
            prepared = collator.prepare(item)
            batch = collator.collate([prepared])
        answers = {name: len(prepared.answers[name]) for name in response_names(collator.prepare.cells)}
        images = next(context.images for context in prepared.contexts.values())
        return ExampleFacts(
            prompt_tokens=int(batch["prompt_mask"].sum(1).max()),
            chosen_tokens=answers.get(CHOSEN, 0),
            rejected_tokens=answers.get("rejected", 0),
            image_sizes=tuple(image.size for image in images),
            unit="tokens",
        )

    return inspect


def describe_faults(faults: Sequence[Fault], rows: int, most: int = 20, image_root: str | None = None) -> str:
    """Returns one message that names every faulty row, up to `most` of them, or what is wrong with all alike."""
    if len(faults) == rows and all(NO_FILE.search(fault.problem) for fault in faults):
        where = f"under image_root {image_root}" if image_root else "where the rows say (image_root is not set)"
        return (
            f"no image of {rows} rows was found {where}: set image_root to the folder that relative paths start from. "
            f"The first: {faults[0].source}: {faults[0].problem}"
        )
    lines = [f"  {fault.source}: {fault.problem}" for fault in faults[:most]]
    if len(faults) > most:
        lines.append(f"  … and {len(faults) - most} more; `mmdpo data check` lists all")
    skip = " (on_bad_row: skip leaves them out)" if len(faults) < rows else ""
    head = f"{len(faults)} of {rows} rows cannot be trained on{skip}:"
    return "\n".join([head, *lines])


def inspect_text(collator: Collator) -> Callable[[PreferenceExample], ExampleFacts]:
    """Returns a function that looks at what one example has, and opens none of its images."""

    def inspect(example: PreferenceExample) -> ExampleFacts:
        validate_example(example)
        collator.prepare.check_images(example)
        return ExampleFacts(prompt_tokens=0, chosen_tokens=0, rejected_tokens=0, image_sizes=(), unit="words")

    return inspect
