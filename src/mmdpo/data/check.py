"""Tries the rows of a dataset in worker processes, without stopping at the first that is faulty."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from xxhash import xxh3_128

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.faults import Fault, as_fault
from mmdpo.data.images import digest_image, open_image
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.data.validate import PAIR, validate_example
from mmdpo.progress import counting
from mmdpo.records import CHOSEN, REJECTED, Comparisons, PreferenceExample, Text

_ROWS_PER_TASK = 16
Result = TypeVar("Result")


@dataclass(frozen=True)
class ExampleFacts:
    """What was measured on one good row."""

    prompt_tokens: int
    chosen_tokens: int | None
    rejected_tokens: int | None
    """None for an answer that the objective does not read."""
    image_sizes: tuple[tuple[int, int], ...]
    """(width, height) in pixels, upright, of each of the example's own images."""
    unit: str = "tokens"
    """What the three lengths count: `tokens` or `words`."""


@dataclass(frozen=True)
class CheckResult:
    """What `find_faults` found: the good rows and their facts, the faulty rows and their problems."""

    good: tuple[int, ...]
    """Positions of the good rows in the dataset, ready for `PreferenceDataset.select`."""
    facts: tuple[Any, ...]
    """What `inspect` returned for each of `good`."""
    faults: tuple[Fault, ...]
    repeats: int
    """Good rows with the prompt and the images of an earlier one."""


Inspect: TypeAlias = Callable[[PreferenceExample], Any]


def inspect_example(
    example: PreferenceExample,
    responses: Collection[str] = (CHOSEN, REJECTED),
    comparisons: Comparisons = PAIR,
) -> ExampleFacts:
    """Validates an example, opens all of its images, and measures lengths in words: the check that needs no model.

    `responses` and `comparisons` are those of the objective.

    Raises RowError as `validate_example` and `open_image`.
    """
    validate_example(example, responses=responses, comparisons=comparisons)
    words = {name: _count_words(example.responses[name]) for name in responses}
    for image in example.rejected_images:
        open_image(image)
    return ExampleFacts(
        prompt_tokens=_count_words(example.prompt),
        chosen_tokens=words.get(CHOSEN),
        rejected_tokens=words.get(REJECTED),
        image_sizes=tuple(open_image(image).size for image in example.images),
        unit="words",
    )


def find_faults(
    dataset: PreferenceDataset, inspect: Inspect = inspect_example, *, num_workers: int = 1, progress: bool = True
) -> CheckResult:
    """Runs `inspect` over every row. A row that raises is a fault, whatever it raises, and the check continues.

    Processes and errors are those of `run_over_rows`, a worker being started for every 16 rows at most.
    """
    workers = min(num_workers, len(dataset) // _ROWS_PER_TASK)
    groups = run_over_rows(
        partial(_try_rows, dataset, inspect),
        range(len(dataset)),
        size=_ROWS_PER_TASK,
        workers=workers,
        progress=progress,
    )
    outcomes = [outcome for group in groups for outcome in group]
    good = [(place, *outcome) for place, outcome in enumerate(outcomes) if not isinstance(outcome, Fault)]
    return CheckResult(
        good=tuple(place for place, _, _ in good),
        facts=tuple(facts for _, facts, _ in good),
        faults=tuple(outcome for outcome in outcomes if isinstance(outcome, Fault)),
        repeats=len(good) - len({content for _, _, content in good}),
    )


def run_over_rows(
    work: Callable[[Sequence[int]], Result], places: Sequence[int], *, size: int, workers: int, progress: bool
) -> Iterator[Result]:
    """Yields what `work` makes of so many rows at a time (`size`), in their order.

    With more than one worker so many processes share the rows, and `work` has to be picklable where processes are
    spawned; otherwise it runs in this one. A progress bar is shown on standard error if asked for. Raises OSError where
    a worker was killed.
    """
    groups = [places[first : first + size] for first in range(0, len(places), size)]
    # A generator of its own: a loader without one draws from the generator that initialises adapters.
    options: dict[str, Any] = dict(collate_fn=as_it_is, generator=torch.Generator())
    loader = DataLoader(_Groups(work, groups), None, num_workers=workers if workers > 1 else 0, **options)
    done = 0
    with counting(len(places), "checking rows", "row", shown=progress) as advance:
        results = iter(loader)
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if workers <= 1:
                    raise
                raise OSError(
                    f"a process that checks rows ended after row {done} or later ({error}). Where memory ran out, use "
                    "fewer of them (dataset_num_proc, or --num_proc)"
                ) from error
            yield result
            before, done = done, min(done + size, len(places))
            advance(done - before)


@dataclass(frozen=True)
class _Groups(Dataset[Result], Generic[Result]):
    """What `work` makes of each group of rows, for the workers of a DataLoader."""

    work: Callable[[Sequence[int]], Result]
    groups: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Result:
        return self.work(self.groups[index])


def as_it_is(result: Any) -> Any:
    """Returns what it is given: torch would make tensors of what a worker returns, and pickles no lambda."""
    return result


def _try_rows(dataset: PreferenceDataset, inspect: Inspect, places: Sequence[int]) -> list[tuple[Any, bytes] | Fault]:
    """Returns what was found in each row, with the digest of its prompt and images, or its fault."""
    outcomes: list[tuple[Any, bytes] | Fault] = []
    for place in places:
        try:
            example = dataset[place]
            outcomes.append((inspect(example), _digest(example)))
        except Exception as error:
            outcomes.append(as_fault(dataset, place, error))
    return outcomes


def _count_words(text: Text) -> int:
    return len(plain_text(text).replace(IMAGE_PLACEHOLDER, " ").split())


def _digest(example: PreferenceExample) -> bytes:
    images = [str(image) if isinstance(image, str | Path) else digest_image(image) for image in example.images]
    return xxh3_128(json.dumps([example.prompt, images], sort_keys=True, default=str).encode()).digest()
