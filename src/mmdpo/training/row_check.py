"""Checks every row by itself: `mmdpo data check`, a dry run, the beginning of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.data.check import (
    CheckResult,
    ExampleFacts,
    Inspect,
    find_faults,
    refuse_faults,
)
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.items import Item
from mmdpo.data.validate import require_images
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, response_names
from mmdpo.training.config import MDPOConfig


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

    def __call__(self, example: PreferenceExample) -> None:
        """Raises RowError for an example that cannot be trained on."""
        self.collator.prepare.validate(example)


def check_rows(dataset: PreferenceDataset, name: str, inspect: Inspect, args: MDPOConfig) -> CheckResult:
    """Returns what `inspect` found of the rows; faulty ones raise as `mmdpo.data.check.refuse_faults` says."""
    require_images(dataset)
    workers = args.dataset_num_proc or args.dataloader_num_workers
    result = find_faults(dataset, inspect, num_workers=workers, progress=not args.disable_tqdm)
    refuse_faults(name, result.faults, len(dataset), skip=args.on_bad_row == "skip")
    return result
