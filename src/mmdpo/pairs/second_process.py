"""A second process for work on many prompts that need not wait for the first: the same result, in less time.

It is a copy of this one, forked, so that nothing is sent to it, and it sends back what a function returns. It ends with
this one, whatever ends that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from mmdpo.pairs.offers import Offering, Slot, Tally
from mmdpo.pairs.prompts import Prompt
from mmdpo.progress import count
from mmdpo.registry import is_elsewhere

MANY = 2_000
"""Prompts or pairs from which on a second process is worth its start."""
Result = TypeVar("Result")


@contextmanager
def second_process(
    work: Callable[[], Result], things: int, doing: str, *, allowed: bool = True
) -> Iterator[Callable[[], Result] | None]:
    """Starts `work` on so many things in a second process; yields what waits for its result, and raises its errors.

    Yields None, and starts nothing, where a second process is of no use or cannot be had. `doing` says what it does,
    where it is killed.
    """
    if not allowed or things < MANY or not _may_start():
        yield None
        return
    fork = get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_work, args=(work, receiver, sender), daemon=True)
    try:
        process.start()
    except OSError:  # there is no memory for it, or there are too many processes
        yield None
        return
    sender.close()

    def wait() -> Result:
        try:
            is_done, found = receiver.recv()
        except EOFError:
            raise ChildProcessError(
                f"the second process that was {doing} was killed, as happens where memory is short: make room, then "
                "run the same command again"
            ) from None
        if not is_done:
            raise found
        return found  # type: ignore[no-any-return]

    try:
        yield wait
    finally:
        process.kill()
        process.join()
        receiver.close()


def offer_all(offering: Offering, prompts: Sequence[Prompt]) -> list[Slot]:
    """Returns what may be taken for each pair of all prompts, in their order. Raises what `Offering.offer` raises.

    A second process makes half of the offers, but those of prompts that repeat each other, which depend on their order.
    Somebody else's rule may use what does not survive a fork, such as threads of PyTorch.
    """
    others = [prompt for prompt in prompts[len(prompts) // 2 :] if not offering.is_repeated(prompt)]

    def work() -> tuple[Any, ...]:
        offering.tally = Tally()
        ranges = [(n, slot.offers) for n, prompt in enumerate(others) for slot in offering.offer(prompt)]
        counts = [getattr(offering, name) for name in offering.COUNTS]
        return ranges, offering.offers, offering.tally, offering.pool, counts

    allowed = bool(others) and not is_elsewhere(offering.rule)
    with second_process(work, len(prompts), "reading answers", allowed=allowed) as wait:
        if wait is None:
            return _offer(offering, prompts)
        apart = {prompt.id for prompt in others}
        slots = _offer(offering, [prompt for prompt in prompts if prompt.id not in apart])
        ranges, *rest = wait()
    start, places = len(offering.offers), {prompt.id: place for place, prompt in enumerate(prompts)}
    slots += [Slot(others[n], range(of.start + start, of.stop + start, of.step)) for n, of in ranges]
    offering.join(places, *rest)
    return sorted(slots, key=lambda slot: places[slot.prompt.id])


def _offer(offering: Offering, prompts: Sequence[Prompt]) -> list[Slot]:
    return [slot for prompt in count(prompts, "reading answers", "prompt") for slot in offering.offer(prompt)]


def _may_start() -> bool:
    """Says whether this process may fork another one, and has a processor for it."""
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1 and not current_process().daemon


def _work(work: Callable[[], Any], receiver: Connection, sender: Connection) -> None:
    """Sends what a function returns, after True, or the error that ended it, after False."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to both, and the first process ends this one
    receiver.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    found: Any
    try:
        found = True, work()
    except Exception as error:
        found = False, error
    with suppress(BrokenPipeError):  # the first process has been killed
        sender.send(found)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
