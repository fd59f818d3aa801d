"""Prints what a check of a dataset found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.text import Text as Plain

from mmdpo.data.check import CheckResult
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.messages import plain_text
from mmdpo.files import printable
from mmdpo.records import CHOSEN, REJECTED
from mmdpo.tables import MISSING, Table

_EXAMPLES_SHOWN = 3
_EXAMPLE_CHARACTERS = 300
_LENGTH_DECIDES = 0.7
"""From this share on, a preference for length explains most pairs."""
_TEMPLATED = re.compile(r"<\|?(?!image\b)\w+\|?>|\[INST\]|\b(USER|Human|User):")
"""What the chat templates of today write before a user's turn."""


def print_summary(result: CheckResult, dataset: PreferenceDataset, console: Console) -> None:
    """Prints counts, lengths, image sizes, a few examples, what is worth knowing, and every faulty row.

    `result` is what `find_faults` returned for this `dataset`.
    """

    def show(title: str, headers: Sequence[str], rows: Sequence[tuple[str, ...]], *, figures: bool = False) -> None:
        # Not the table's own title, which is broken into lines where the table is narrow.
        console.print(Plain(printable(title), style="bold"))
        table = Table(tuple(headers), tuple(rows), holds_figures=figures)
        console.print(table.terminal(show_header=any(headers)))

    longer, _, pairs = _compare_lengths(result)
    counts = {
        "format": dataset.format.name,
        "rows": str(len(dataset)),
        "good": str(len(result.good)),
        "faulty": str(len(result.faults)),
        "chosen is longer": f"{longer / pairs:.0%} of the pairs" if pairs else MISSING,
    }
    show(dataset.name, ("", ""), list(counts.items()))
    if result.facts:
        lengths = {
            "prompt": [facts.prompt_tokens for facts in result.facts],
            "chosen": [facts.chosen_tokens for facts in result.facts if facts.chosen_tokens is not None],
            "rejected": [facts.rejected_tokens for facts in result.facts if facts.rejected_tokens is not None],
        }
        rows = [(name, *_percentiles(values, [0, 50, 95, 100])) for name, values in lengths.items() if values]
        show(f"Lengths in {result.facts[0].unit}", ("", "min", "median", "p95", "max"), rows, figures=True)
    if sizes := [size for facts in result.facts for size in facts.image_sizes]:
        (width, height), most = Counter(sizes).most_common(1)[0]
        rows = [
            ("width", *_percentiles([width for width, _ in sizes], [0, 50, 100])),
            ("height", *_percentiles([height for _, height in sizes], [0, 50, 100])),
            ("width / height", *_percentiles([width / height for width, height in sizes], [0, 50, 100], ".2f")),
        ]
        title = f"Images: {len(sizes)} with {len(set(sizes))} distinct sizes, most often {width} × {height} ({most})"
        show(title, ("", "min", "median", "max"), rows, figures=True)
    shown, prompts = min(_EXAMPLES_SHOWN, len(result.good)), []
    for place in range(shown):  # evenly spread over the whole
        index = result.good[place * len(result.good) // shown]
        example = dataset[index]
        prompts.append(example.prompt)
        answers = {name: example.responses[name] for name in (CHOSEN, REJECTED) if name in example.responses}
        texts = {"prompt": example.prompt, **answers}
        show(dataset.source_of(index), ("", ""), [(name, _shorten(plain_text(text))) for name, text in texts.items()])
    warnings = [*([dataset.id_problem] if dataset.id_problem else []), *list_warnings(result)]
    if prompts and all(isinstance(prompt, str) and not _TEMPLATED.search(prompt) for prompt in prompts):
        warnings.append(
            "prompts are plain text, to which no chat template is applied: for a chat model write chat turns, or a "
            "column `question` in place of `prompt`"
        )
    for warning in warnings:
        console.print(Plain(f"Note: {warning}", style="yellow"))
    if result.faults:
        faults = [(str(fault.row), fault.source, fault.problem) for fault in result.faults]
        show("Faulty rows", ("row", "source", "problem"), faults)


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


def _percentiles(values: Sequence[float], which: Sequence[float], form: str = ".0f") -> list[str]:
    return [format(value, form) for value in np.percentile(values, which)]


def _shorten(text: str) -> str:
    text = printable(text.strip())
    return text if len(text) <= _EXAMPLE_CHARACTERS else f"{text[:_EXAMPLE_CHARACTERS]} …"
