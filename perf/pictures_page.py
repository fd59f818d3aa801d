"""The part of the page that tells what pairs with one picture cost: the latest result of every machine."""

from __future__ import annotations

import statistics
from textwrap import fill
from typing import Any

WIDTH = 120
DATA = {
    "questions": "four questions about a picture",
    "answers": "a question about a picture, four pairs of answers",
    "distinct": "four pictures",
}


def render_pictures(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.pictures` measures it and writes its file."
    return "\n\n".join(_render_machine(result) for result in results)


def _render_machine(result: dict[str, Any]) -> str:
    sides = [case["sides"] for case in result["cases"]]
    spans = "; ".join(
        f"answers of {lengths['answer'][0]} to {lengths['answer'][1]} tokens ({name})"
        for name, lengths in result["lengths"].items()
    )
    intro = (
        f"Machine `{result['machine']}`, {result['date']}, shape *{result['shape']['name']}*, {result['pairs']} pairs, "
        f"one thread, {spans}; CPU seconds of a step, medians of {sides[0]['apart']['time']['repetitions']} in turn. "
        f"The load average of the machine was {result['load_before']:.1f} before it was measured and "
        f"{result['load_after']:.1f} after: ratios are what can be compared."
    )
    compared = [case["turns"]["commit_before"] for case in result["cases"] if "turns" in case]
    if compared:
        intro += " The last column has the step of an earlier version, in turn with this one's, a process for each."
    head = ["answers", "objective", "pairs", "apart, s", "together, s"]
    head += ["ratio of time", "ratio of operations", "ratio of memory"]
    head += [f"apart at {compared[0]} / together"] if compared else []
    lines = [head, ["---"] * len(head)]
    for case in result["cases"]:
        apart, together = case["sides"]["apart"], case["sides"]["together"]
        seconds = [side["time"]["median"] for side in (apart, together)]
        lines.append(
            [
                *(case["lengths"], case["objective"], DATA[case["data"]]),
                *(f"{value:.2f}" for value in seconds),
                f"{seconds[0] / seconds[1]:.2f}",
                f"{apart['flops'] / together['flops']:.2f}",
                f"{together['peak_bytes'] / apart['peak_bytes']:.2f}",
                *([_compare(case["turns"])] if "turns" in case else [""] * bool(compared)),
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{fill(intro, WIDTH)}\n\n{table}"


def _compare(turns: dict[str, Any]) -> str:
    """Returns how often a step of this version fits into one of the version before, on pairs as each was then."""
    pairs = zip(turns["before"], turns["after"], strict=True)
    return f"{statistics.median(before['apart'] / after['together'] for before, after in pairs):.2f}"
