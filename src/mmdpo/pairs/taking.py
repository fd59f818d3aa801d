"""Which of the pairs that prompts offer are taken: few of an image, and alike in length and style in the mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmdpo.pairs.balance import Values, area_under_curve, balance, is_uneven
from mmdpo.pairs.offers import Offer, Offers, Slot, Tally
from mmdpo.pairs.plan import BuildPlan
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.run_files import RunFiles


def take(
    slots: Sequence[Slot], offers: Offers, files: RunFiles, plan: BuildPlan, tally: Tally
) -> list[tuple[Prompt, Offer]]:
    """Returns the offers that are taken, no more than one of each slot; counts what falls away."""
    limited = _limit_per_image(slots, files, plan.per_image)
    taken = limited if plan.balance == "none" else _balance(slots, offers, limited)
    paired = {prompt.id for (prompt, _), n in zip(slots, taken, strict=True) if n is not None}
    told = set[str]()
    for (prompt, _), before, n in zip(slots, limited, taken, strict=True):
        reason = "too many of an image" if before is None else "lengths and style would differ"
        if n is None and prompt.id in paired:
            tally.counts[f"pair: {reason}"] += 1
        elif n is None and prompt.id not in told:
            tally.drop(prompt.id, reason)
            told.add(prompt.id)
    return [(prompt, offers[own[n]]) for (prompt, own), n in zip(slots, taken, strict=True) if n is not None]


def _limit_per_image(slots: Sequence[Slot], files: RunFiles, most: int) -> list[int | None]:
    """Returns the first offer of each slot, None where one of its images has pairs enough."""
    counts = Counter[str]()
    taken: list[int | None] = []
    for prompt, _ in slots:
        images = set(files.images(prompt))
        has_room = all(counts[image] < most for image in images)
        counts.update(images if has_room else ())
        taken.append(0 if has_room else None)
    return taken


def _balance(slots: Sequence[Slot], offers: Offers, taken: list[int | None]) -> list[int | None]:
    """Returns what is taken once the mean lengths agree, and the marks of style, where known, that decide most."""

    def values(chosen: Sequence[int], rejected: Sequence[int]) -> list[list[Values]]:
        return [[(chosen[place], rejected[place]) for place in own] for _, own in slots]

    for mark in offers.marks.values():
        of_slots = values(*mark)
        if is_uneven(area_under_curve([own[n] for own, n in zip(of_slots, taken, strict=True) if n is not None])):
            taken = balance(of_slots, taken)
    return balance(values(*offers.words), taken)
