"""Prints what a check of a dataset found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Plain

from mmdpo.data.check import CheckResult, Fault
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.messages import plain_text
from mmdpo.printable import printable
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample

_EXAMPLES_SHOWN = 3
_EXAMPLE_CHARACTERS = 300
_LENGTH_DECIDES = 0.7
"""From this share on, a preference for length explains most pairs."""


def print_summary(result: CheckResult, dataset: PreferenceDataset, console: Console) -> None:
    """Prints counts, lengths, image sizes, a few examples, what is worth knowing, and every faulty row.

    `result` is what `find_faults` returned for this `dataset`.
    """
    _print_titled(console, dataset.name, _table_counts(result, dataset))
    if result.facts:
        _print_titled(console, f"Lengths in {result.facts[0].unit}", _table_lengths(result))
    sizes = [size for facts in result.facts for size in facts.image_sizes]
    if sizes:
        _print_titled(console, _describe_sizes(sizes), _table_images(sizes))
    for index in _spread(result.good, _EXAMPLES_SHOWN):
        _print_titled(console, dataset.source_of(index), _table_example(dataset[index]))
    for warning in list_warnings(result):
        console.print(Plain(f"Note: {warning}", style="yellow"))
    if result.faults:
        _print_titled(console, "Faulty rows", _table_faults(result.faults))


def list_warnings(result: CheckResult) -> list[str]:
    """Returns what is no fault of any row and yet worth knowing before training."""
    rows = len(result.facts)
    warnings = []
    if result.repeats:
        warnings.append(f"{result.repeats} of {rows} rows have the prompt and images of an earlier row")
    without = sum(not facts.image_sizes for facts in result.facts)
    if without:
        warnings.append(f"{without} of {rows} rows have no image: there is nothing for an image preference to compare")
    longer, shorter, pairs = _compare_lengths(result)
    for count, word in ((longer, "longer"), (shorter, "shorter")):
        if pairs and count / pairs >= _LENGTH_DECIDES:
            warnings.append(
                f"chosen is {word} than rejected in {count / pairs:.0%} of the pairs: length alone tells them apart"
            )
    return warnings


def _compare_lengths(result: CheckResult) -> tuple[int, int, int]:
    """Returns in how many pairs chosen is longer and shorter than rejected, and how many have both."""
    pairs = [
        (facts.chosen_tokens, facts.rejected_tokens)
        for facts in result.facts
        if facts.chosen_tokens is not None and facts.rejected_tokens is not None
    ]
    longer = sum(chosen > rejected for chosen, rejected in pairs)
    return longer, sum(chosen < rejected for chosen, rejected in pairs), len(pairs)


def _print_titled(console: Console, title: str, table: Table) -> None:
    # Not rich's own title, which is broken into lines where the table is narrow.
    console.print(Plain(printable(title), style="bold"))
    console.print(table)


def _table_counts(result: CheckResult, dataset: PreferenceDataset) -> Table:
    table = Table(show_header=False)
    longer, _, pairs = _compare_lengths(result)
    rows = [
        ("format", dataset.format.name),
        ("rows", str(len(dataset))),
        ("good", str(len(result.good))),
        ("faulty", str(len(result.faults))),
        ("chosen is longer", f"{longer / pairs:.0%} of the pairs" if pairs else "-"),
    ]
    for name, value in rows:
        table.add_row(name, Plain(value))
    return table


def _table_lengths(result: CheckResult) -> Table:
    table = Table()
    for heading in ("", "min", "median", "p95", "max"):
        table.add_column(heading, justify="right" if heading else "left")
    lengths: dict[str, Sequence[int | None]] = {
        "prompt": [facts.prompt_tokens for facts in result.facts],
        "chosen": [facts.chosen_tokens for facts in result.facts],
        "rejected": [facts.rejected_tokens for facts in result.facts],
    }
    for name, counted in lengths.items():
        values = [value for value in counted if value is not None]
        if not values:
            continue  # the objective does not read this answer
        table.add_row(name, *(f"{value:.0f}" for value in np.percentile(values, [0, 50, 95, 100])))
    return table


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    (width, height), most = Counter(sizes).most_common(1)[0]
    return f"Images: {len(sizes)} with {len(set(sizes))} distinct sizes, most often {width} × {height} ({most})"


def _table_images(sizes: Sequence[tuple[int, int]]) -> Table:
    table = Table()
    for heading in ("", "min", "median", "max"):
        table.add_column(heading, justify="right" if heading else "left")
    measures: dict[str, tuple[list[float], str]] = {
        "width": ([width for width, _ in sizes], ".0f"),
        "height": ([height for _, height in sizes], ".0f"),
        "width / height": ([width / height for width, height in sizes], ".2f"),
    }
    for name, (values, form) in measures.items():
        table.add_row(name, *(format(value, form) for value in np.percentile(values, [0, 50, 100])))
    return table


def _table_example(example: PreferenceExample) -> Table:
    # Text of a dataset may hold square brackets, which rich would read as markup in a plain string.
    table = Table(show_header=False)
    table.add_row("prompt", Plain(_shorten(plain_text(example.prompt))))
    for name in (CHOSEN, REJECTED):
        if name in example.responses:
            table.add_row(name, Plain(_shorten(plain_text(example.responses[name]))))
    return table


def _table_faults(faults: Sequence[Fault]) -> Table:
    table = Table("row", "source", "problem")
    for fault in faults:
        table.add_row(str(fault.row), Plain(printable(fault.source)), Plain(printable(fault.problem)))
    return table


def _shorten(text: str) -> str:
    text = printable(text.strip())
    return text if len(text) <= _EXAMPLE_CHARACTERS else f"{text[:_EXAMPLE_CHARACTERS]} …"


def _spread(positions: Sequence[int], count: int) -> list[int]:
    """Returns up to `count` entries, evenly spread over the whole."""
    count = min(count, len(positions))
    return [positions[i * len(positions) // count] for i in range(count)]
