"""What the main process does for all of them: it alone touches the disk, and its error is everybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

Outcome = TypeVar("Outcome")


def on_main_process(function: Callable[[], Outcome], *, is_main: bool) -> Outcome:
    """Returns on every process what a function gives on the main one. Raises there what it raises: OSError, ValueError.

    Every process must call it.
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
