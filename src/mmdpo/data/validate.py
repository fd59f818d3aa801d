"""Judges examples before training starts: one row at a time, or a whole dataset without stopping at the first fault."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import open_image
from mmdpo.data.messages import IMAGE_PLACEHOLDER, count_placeholders, plain_text
from mmdpo.data.turns import spoken_texts
from mmdpo.printable import printable
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, RowError, Text

_ROWS_PER_TASK = 16
_ROWS_SAMPLED = 32


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

    @property
    def length(self) -> int:
        """Prompt and answers together."""
        return self.prompt_tokens + (self.chosen_tokens or 0) + (self.rejected_tokens or 0)


@dataclass(frozen=True)
class Fault:
    """A row that cannot be trained on."""

    row: int
    """Number of the row in its file, from 1."""
    source: str
    problem: str


@dataclass(frozen=True)
class CheckResult:
    """What `find_faults` found: the good rows and their facts, the faulty rows and their problems."""

    good: tuple[int, ...]
    """Positions of the good rows in the dataset, ready for `PreferenceDataset.select`."""
    facts: tuple[ExampleFacts, ...]
    """One for each of `good`."""
    faults: tuple[Fault, ...]
    repeats: int
    """Good rows with the prompt and the images of an earlier one."""


Inspect: TypeAlias = Callable[[PreferenceExample], ExampleFacts]


def validate_example(example: PreferenceExample, *, responses: Collection[str] = (CHOSEN, REJECTED)) -> None:
    """Checks everything about an example that needs neither its images nor a model.

    `responses` names the responses that the objective needs.

    Raises:
        RowError: a response is missing, empty, or has an image in it; chosen and rejected are equal; the prompt is
            empty; the number of images differs from that of their places in the prompt, or of the corrupted images.
    """
    try:
        _check_prompt(example.prompt)
        for name in responses:
            _check_response(example.responses.get(name), name)
        _check_difference(example, responses)
        _check_image_counts(example)
    except RowError as error:
        raise RowError(error.problem, source=example.source) from error


def inspect_example(example: PreferenceExample) -> ExampleFacts:
    """Validates an example, opens all of its images, and measures lengths in words: the check that needs no model.

    Raises:
        RowError: as `validate_example` and `open_image`.
    """
    validate_example(example)
    for image in example.rejected_images:
        open_image(image)
    return ExampleFacts(
        prompt_tokens=_count_words(example.prompt),
        chosen_tokens=_count_words(example.responses[CHOSEN]),
        rejected_tokens=_count_words(example.responses[REJECTED]),
        image_sizes=tuple(open_image(image).size for image in example.images),
        unit="words",
    )


def require_images(dataset: PreferenceDataset) -> None:
    """Raises ValueError where of the images that a sample of the rows names as files not one is found.

    That is a wrong folder rather than a fault of every row.
    """
    rows = range(0, len(dataset), -(-len(dataset) // _ROWS_SAMPLED))
    paths = {path for row in rows for path in _image_files(dataset, row)}
    if len(paths) > 1 and not any(map(os.path.exists, paths)):
        first = printable(str(min(paths)))
        raise ValueError(
            f"{printable(dataset.name)}: no image was found under {printable(str(dataset.image_root or Path()))}; "
            f"the first of {len(paths)} that were looked for is {first:.200}: give the folder that image paths start "
            "from (image_root)"
        )


def _image_files(dataset: PreferenceDataset, row: int) -> list[Path]:
    try:
        return [Path(image) for image in dataset[row].images if isinstance(image, str | Path)]
    except Exception:
        return []  # whatever a row raises is said by `find_faults`


def find_faults(
    dataset: PreferenceDataset, inspect: Inspect = inspect_example, *, num_workers: int = 1, progress: bool = True
) -> CheckResult:
    """Runs `inspect` over every row, as `try_rows` does."""
    return summarise(try_rows(dataset, range(len(dataset)), inspect, num_workers=num_workers, progress=progress))


def try_rows(
    dataset: PreferenceDataset, positions: Sequence[int], inspect: Inspect, *, num_workers: int, progress: bool
) -> list[Outcome]:
    """Runs `inspect` over the rows at these positions and returns what came of each, in their order.

    A row that raises is a fault, whatever it raises; the check goes on. With `num_workers` above 1 so many processes
    share the rows, and `inspect` has to be picklable where processes are spawned; otherwise they are tried in this
    process. A progress bar is shown on standard error if asked for. Raises OSError where a worker was killed.
    """
    # A worker that gets one batch or none costs more than it saves.
    workers = min(num_workers, len(positions) // _ROWS_PER_TASK)
    rows = _Rows(dataset, positions, inspect)
    # A generator of its own: a loader without one draws from the generator that initialises adapters.
    options: dict[str, Any] = dict(collate_fn=list, generator=torch.Generator())
    loader = DataLoader(rows, _ROWS_PER_TASK, num_workers=workers if workers > 1 else 0, **options)
    outcomes: list[Outcome] = []
    with _show_progress(len(positions), enabled=progress) as advance:
        try:
            for part in loader:
                outcomes += part
                advance(len(part))
        except RuntimeError as error:  # what a row raises is an outcome: this is about a worker itself
            raise OSError(
                f"a process that checks rows ended after row {len(outcomes)} or later ({error}). Where memory ran out, "
                "use fewer of them (dataset_num_proc, or --num_proc)"
            ) from error
    return outcomes


def summarise(outcomes: Sequence[Outcome]) -> CheckResult:
    """Returns what was found in a dataset, of which every row was tried."""
    good = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, _Good)]
    return CheckResult(
        good=tuple(index for index, _ in good),
        facts=tuple(outcome.facts for _, outcome in good),
        faults=tuple(outcome for outcome in outcomes if isinstance(outcome, Fault)),
        repeats=len(good) - len({outcome.content for _, outcome in good}),
    )


def write_faults(path: str | Path, faults: Collection[Fault]) -> None:
    """Writes faults as JSON lines with `row` (from 1), `source` and `problem`."""
    lines = (json.dumps({"row": f.row, "source": f.source, "problem": f.problem}, ensure_ascii=False) for f in faults)
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True)
class _Good:
    facts: ExampleFacts
    content: bytes
    """Digest of prompt and images."""


Outcome: TypeAlias = "_Good | Fault"
"""What came of one row."""


class _Rows(Dataset[Outcome]):
    """The outcomes of rows, for the workers of a DataLoader."""

    def __init__(self, dataset: PreferenceDataset, positions: Sequence[int], inspect: Inspect) -> None:
        self.dataset, self.positions, self.inspect = dataset, positions, inspect

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Outcome:
        return _inspect_row(self.dataset, self.positions[index], self.inspect)


def _inspect_row(dataset: PreferenceDataset, index: int, inspect: Inspect) -> Outcome:
    source = printable(dataset.source_of(index))
    try:
        example = dataset[index]
        return _Good(inspect(example), _digest(example))
    except RowError as error:
        problem = error.problem
    # One odd row must not hide the faults of the others, so nothing passes.
    except Exception as error:
        problem = printable(f"{type(error).__name__}: {error}")
    return Fault(dataset.row_of(index), source, problem)


def _check_prompt(prompt: Text) -> None:
    _check_unicode(prompt, "prompt")
    if not plain_text(prompt).replace(IMAGE_PLACEHOLDER, "").strip():
        raise RowError("the prompt is empty: write the question, or remove the row")


def _check_response(response: Text | None, name: str) -> None:
    if response is None:
        raise RowError(f"there is no `{name}`: add the answer, or remove the row")
    _check_unicode(response, name)
    if not plain_text(response).strip():
        raise RowError(f"`{name}` is empty: write the answer, or remove the row")
    if count_placeholders(response):
        raise RowError(f"`{name}` has an {IMAGE_PLACEHOLDER} in it: images belong to the prompt; remove it")
    if not isinstance(response, str) and response[0]["role"] != "assistant":
        raise RowError(
            f"`{name}` begins with a turn of the {response[0]['role']}: keep only the answer, the rest is `prompt`"
        )
    if not isinstance(response, str) and len(response) > 1:
        raise RowError(
            f"`{name}` has {len(response)} turns, and every word of an answer is trained on: keep one turn of the "
            "assistant, and put what comes before it into `prompt`"
        )


def _check_unicode(text: Text, name: str) -> None:
    try:
        for part in [text] if isinstance(text, str) else spoken_texts(text):
            part.encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise RowError(
            f"`{name}` is not valid Unicode: half of a surrogate pair stands in {near!r}; write the whole character, "
            "or remove the row"
        ) from error


def _check_difference(example: PreferenceExample, responses: Collection[str]) -> None:
    if CHOSEN not in responses or REJECTED not in responses:
        return
    chosen, rejected = example.responses[CHOSEN], example.responses[REJECTED]
    if plain_text(chosen).strip() == plain_text(rejected).strip():
        raise RowError("`chosen` and `rejected` are equal: there is nothing to prefer; correct one or remove the row")


def _check_image_counts(example: PreferenceExample) -> None:
    places, images, corrupted = count_placeholders(example.prompt), len(example.images), len(example.rejected_images)
    if places < images:
        raise RowError(
            f"the prompt has {_count(places, 'place')} for {_count(images, 'image')}: write {IMAGE_PLACEHOLDER} where "
            "each image belongs, or remove the images that are too many"
        )
    if places > images:
        raise RowError(
            f"the prompt has {_count(places, 'place')} for {_count(images, 'image')}: add the missing images, or "
            f"remove {IMAGE_PLACEHOLDER} from the prompt"
        )
    if corrupted and corrupted != images:
        raise RowError(
            f"there are {_count(corrupted, 'corrupted image')} (rejected_images) for {_count(images, 'image')}: give "
            "one for each image, in the same order, or none"
        )
    if corrupted and all(map(_is_same_source, example.images, example.rejected_images)):
        raise RowError(
            "the corrupted images (rejected_images) are the images themselves: there is nothing to prefer between "
            "them; remove the column, and the run's corruption makes them"
        )


def _is_same_source(one: ImageSource, other: ImageSource) -> bool:
    # PIL images are not compared: that would decode them.
    return one is other or (isinstance(one, str | Path | bytes) and one == other)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _count_words(text: Text) -> int:
    return len(plain_text(text).replace(IMAGE_PLACEHOLDER, " ").split())


def _digest(example: PreferenceExample) -> bytes:
    digest = hashlib.blake2b(json.dumps(example.prompt, sort_keys=True, default=str).encode(), digest_size=16)
    for image in example.images:
        if isinstance(image, str | Path):
            digest.update(f"\x1f{image}".encode(errors="surrogatepass"))
        else:
            digest.update(b"\x1f" + (image if isinstance(image, bytes) else image.tobytes()))
    return digest.digest()


@contextmanager
def _show_progress(total: int, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("Checking rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not enabled, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda rows: bar.advance(task, rows)
