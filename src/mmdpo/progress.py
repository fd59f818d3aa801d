"""Bars on a terminal: how much of something is done. In a file, a pipe or a notebook's output nothing is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Thing = TypeVar("Thing")

LOADING = "loading PyTorch and transformers …"
PATIENCE = 0.5
"""Seconds before a bar is drawn: what takes less needs none."""


def count(
    things: Iterable[Thing], doing: str, unit: str, *, total: int | None = None, shown: bool = True
) -> Iterator[Thing]:
    """Yields things one after another, under a bar that counts them in `unit` and goes when all are done."""
    from tqdm import tqdm

    yield from tqdm(things, total=total, **_describe(doing, unit, shown=shown))


@contextmanager
def counting(total: int, doing: str, unit: str, *, done: int = 0, shown: bool = True) -> Iterator[Callable[[int], Any]]:
    """Draws such a bar for the block; what it yields is told how many more are done."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, **_describe(doing, unit, shown=shown)) as bar:
        yield bar.update


@contextmanager
def stages(total: int, doing: str) -> Iterator[Callable[[str], None]]:
    """Draws a bar of stages for the block; what it yields is told which of them begins."""
    from tqdm import tqdm

    # The delay holds for what has no name yet: a stage that begins is drawn at once.
    with tqdm(total=total, bar_format="{desc} ({n}/{total})", leave=False, disable=None, delay=1) as bar:

        def begin(stage: str) -> None:
            bar.n += 1
            bar.set_description_str(f"{doing}: {stage}")

        yield begin


@contextmanager
def loading() -> Iterator[None]:
    """Says on a terminal that libraries are being loaded, which takes seconds, while the block imports them."""
    if not sys.stderr.isatty():
        yield
        return
    print(LOADING, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * len(LOADING)}\r", end="", file=sys.stderr, flush=True)


def _describe(doing: str, unit: str, *, shown: bool) -> dict[str, Any]:
    return dict(desc=doing, unit=unit, leave=False, disable=None if shown else True, delay=PATIENCE, dynamic_ncols=True)
