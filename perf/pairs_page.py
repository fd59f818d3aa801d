"""The part of the page that tells what pairs from a million verdicts cost: the latest result of every machine."""

from __future__ import annotations

from textwrap import fill
from typing import Any

WIDTH = 120


def render_pairs(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.pairs` measures it and writes its file."
    return "\n\n".join(map(_render_machine, results))


def _render_machine(result: dict[str, Any]) -> str:
    figures, target = result["build"], result["target"]
    wall, cpu, gib = (figures[name]["median"] for name in ("wall", "cpu", "gib"))
    of_each = " in each of two processes" if result.get("processes") == 2 else ""
    head = (
        f"`python -m perf.pairs`, machine `{result['machine']}`, {result['date']}, mmdpo at "
        f"{result['versions']['mmdpo_commit']}: `mmdpo pairs build` as a process of its own, from "
        f"{result['verdicts']:,} verdicts with their claims on {result['answers']} answers to each of "
        f"{result['prompts']:,} prompts about pictures of their own, to "
        f"{result['pairs']['train']:,} pairs with card and page: "
        f"{wall:.0f} s, {cpu:.0f} s of CPU, {gib:.1f} GiB at most{of_each} (medians of "
        f"{figures['wall']['repetitions']}; the load average was "
        f"{result['load_before']:.1f} before and {result['load_after']:.1f} after)."
    )
    is_met = wall <= target["seconds"] and result.get("processes", 1) * gib <= target["gib"]
    foot = [
        f"Target: {target['seconds']} s on two cores and {target['gib']:g} GiB; {'met' if is_met else '**missed**'}.",
        f"Expected beforehand: {result['expected']}.",
    ]
    return "\n".join([fill(head, WIDTH), "", *(fill(line, WIDTH) for line in foot)])
