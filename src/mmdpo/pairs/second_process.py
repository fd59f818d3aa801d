"""Offers of many prompts, half of them made in a second process: the same offers, in the same order, in less time.

The process is a copy of this one, forked once answers are known by their prompts, and sends back columns of numbers. It
ends with this one, whatever ends that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from mmdpo.pairs.offers import Offering, Slot, Tally
from mmdpo.pairs.prompts import Prompt
from mmdpo.progress import count
from mmdpo.registry import is_elsewhere

MANY = 10_000
"""Prompts from which on a second process is worth its start."""


def offer_all(offering: Offering, prompts: Sequence[Prompt]) -> list[Slot]:
    """Returns what may be taken for each pair of all prompts, in their order. Raises what `Offering.offer` raises."""
    others = _choose_others(offering, prompts)
    if not others:
        return _offer(offering, prompts)
    apart = {prompt.id for prompt in others}
    fork = get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    worker = fork.Process(target=_work, args=(offering, others, receiver, sender), daemon=True)
    try:
        worker.start()
    except OSError:  # there is no memory for it, or there are too many processes
        return _offer(offering, prompts)
    sender.close()
    try:
        slots = _offer(offering, [prompt for prompt in prompts if prompt.id not in apart])
        found = receiver.recv()
    except EOFError:
        raise ChildProcessError(
            "the second process that was reading answers was killed, as happens where memory is short: make room, then "
            "run the same command again"
        ) from None
    finally:
        worker.kill()
        worker.join()
    if isinstance(found, Exception):
        raise found
    ranges, *rest = found
    start, places = len(offering.offers), {prompt.id: place for place, prompt in enumerate(prompts)}
    slots += [Slot(others[n], range(of.start + start, of.stop + start, of.step)) for n, of in ranges]
    offering.join(places, *rest)
    return sorted(slots, key=lambda slot: places[slot.prompt.id])


def _choose_others(offering: Offering, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Returns the prompts of the second process, none where there should be only one.

    Offers of prompts that repeat each other depend on their order. Somebody else's rule may use what does not survive
    a fork, such as threads of PyTorch.
    """
    if len(prompts) < MANY or is_elsewhere(offering.rule):
        return []
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or current_process().daemon:  # may start none
        return []
    return [prompt for prompt in prompts[len(prompts) // 2 :] if not offering.is_repeated(prompt)]


def _offer(offering: Offering, prompts: Sequence[Prompt]) -> list[Slot]:
    return [slot for prompt in count(prompts, "reading answers", "prompt") for slot in offering.offer(prompt)]


def _work(offering: Offering, prompts: Sequence[Prompt], receiver: Connection, sender: Connection) -> None:
    """Sends what prompts offer and lose, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to both, and the first process ends this one
    receiver.close()
    parent = parent_process()
    offering.tally = Tally()
    found: Any
    try:
        ranges = []
        for n, prompt in enumerate(prompts):
            if parent is None or os.getppid() != parent.pid:
                return
            ranges += [(n, slot.offers) for slot in offering.offer(prompt)]
        counts = [getattr(offering, name) for name in offering.COUNTS]
        found = ranges, offering.offers, offering.tally, offering.pool, counts
    except Exception as error:
        found = error
    with suppress(BrokenPipeError):  # the first process has been killed
        sender.send(found)
