"""The part of the page that tells where the CPU seconds of a step go: the latest result of every machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from perf.sides import ANSWER_HEAD, DPO, MDPO, MDPO_PASS, ORIGINAL, TRL, TRL_CACHED

WIDTH = 120
NAMES = {
    TRL: "B",
    TRL_CACHED: "B, references given",
    DPO: "C, DPO, warm",
    ORIGINAL: "A",
    ANSWER_HEAD: "A′",
    MDPO: "C, mDPO, warm",
    MDPO_PASS: "reference pass of mDPO",
}
RIVALS = ((TRL, DPO), (TRL_CACHED, DPO), (ORIGINAL, MDPO), (ANSWER_HEAD, MDPO))
"""Theirs and ours."""


def render_operators(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.operators` measures it and writes its file."
    return "\n\n".join(_render_machine(result) for result in results)


def _render_machine(result: dict[str, Any]) -> str:
    peaks, sides = result["peaks"], result["sides"]
    repetitions = len(next(iter(next(iter(sides.values())).values()))["each"])
    intro = (
        f"Machine `{result['machine']}`, {result['date']}, mmdpo at {result['versions']['mmdpo_commit']}, "
        f"{result['pairs']} pairs, one thread, medians of {repetitions} in turn. The machine was not idle (its load "
        f"average was {result['load_before']:.1f} before it was measured and {result['load_after']:.1f} after): CPU "
        f"seconds of the thread are told, and what shares its caches and memory slows them, too. Measured in the same "
        f"run, at best: a float32 product {peaks['flops'] / 1e9:.0f} GFLOP/s, a copy {peaks['bandwidth'] / 1e9:.0f} "
        "GB/s, read and written."
    )
    parts = [
        fill(intro, WIDTH),
        _table(["shape", "theirs / ours", "ratio of operations", "ratio of time"], _list_ratios(result)),
        fill(
            "“At least” is the roofline: of each operator the longer of computing and of reading and writing, at these "
            "peaks. Kinds of operators in CPU seconds of one further step, which a clock around each makes slower.",
            WIDTH,
        ),
        _table(
            ["shape", "side", "s / step", "GFLOP", "GFLOP/s", "of the peak", "at least, s", "of it reached"],
            [_tell_side(shape, name, side, peaks) for shape, found in sides.items() for name, side in found.items()],
        ),
        _table(
            ["shape", "side", *(next(iter(sides["body"].values()))["costs"])],
            [
                [shape, NAMES[name], *(_tell_cost(kind, cost) for kind, cost in side["costs"].items())]
                for shape, found in sides.items()
                for name, side in found.items()
            ],
        ),
    ]
    if result["turns"]:
        commit = next(iter(result["turns"].values()))["commit_before"]
        parts += [
            fill(f"The same steps at {commit}, in turn with this version's, a process for each:", WIDTH),
            _table(["shape", "side", "before, s", "after, s", "after / before"], _list_turns(result["turns"])),
        ]
    return "\n\n".join(parts)


def _median_ratio(these: Sequence[float], those: Sequence[float]) -> str:
    """Returns the median of the ratios of each turn."""
    return f"{statistics.median(one / other for one, other in zip(these, those, strict=True)):.2f}"


def _count(side: dict[str, Any]) -> float:
    return float(sum(cost["flops"] for cost in side["costs"].values()))


def _list_ratios(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for shape, sides in result["sides"].items():
        for theirs, ours in RIVALS:
            if theirs not in sides:
                continue
            times = [sides[name]["each"] for name in (theirs, ours)]
            operations = f"{_count(sides[theirs]) / _count(sides[ours]):.2f}"
            rows.append([shape, f"{NAMES[theirs]} / {NAMES[ours]}", operations, _median_ratio(*times)])
            if theirs == ORIGINAL:
                spread = [
                    step + scoring / result["epochs"]
                    for step, scoring in zip(sides[ours]["each"], sides[MDPO_PASS]["each"], strict=True)
                ]
                operations_ours = _count(sides[ours]) + _count(sides[MDPO_PASS]) / result["epochs"]
                operations = f"{_count(sides[theirs]) / operations_ours:.2f}"
                rows.append([shape, "A / C, mDPO, amortised", operations, _median_ratio(times[0], spread)])
    return rows


def _tell_side(shape: str, name: str, side: dict[str, Any], peaks: dict[str, float]) -> list[str]:
    seconds, flops = statistics.median(side["each"]), _count(side)
    least = sum(cost["least"] for cost in side["costs"].values())
    shares = [f"{flops / seconds / peaks['flops']:.0%}", f"{least:.2f}", f"{least / seconds:.0%}"]
    return [shape, NAMES[name], f"{seconds:.2f}", f"{flops / 1e9:.0f}", f"{flops / seconds / 1e9:.0f}", *shares]


def _tell_cost(kind: str, cost: dict[str, Any]) -> str:
    """Returns the seconds, and the speed in what the kind spends them on."""
    if not cost["seconds"]:
        return "0"
    speed = f"{cost['flops'] / cost['seconds'] / 1e9:.0f} GFLOP/s"
    if "product" not in kind and kind != "attention":
        speed = f"{cost['bytes'] / cost['seconds'] / 1e9:.0f} GB/s"
    return f"{cost['seconds']:.2f} ({speed})"


def _list_turns(turns: dict[str, Any]) -> list[list[str]]:
    rows = []
    for shape, found in turns.items():
        for name, versions in found["sides"].items():
            medians = [f"{statistics.median(versions[version]):.2f}" for version in ("before", "after")]
            rows.append([shape, NAMES[name], *medians, _median_ratio(versions["after"], versions["before"])])
    return rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
