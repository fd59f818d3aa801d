"""The part of the page that tells what comes before the first step: the latest result of every machine."""

from __future__ import annotations

from textwrap import fill
from typing import Any

WIDTH = 120


def render_start(starts: list[dict[str, Any]], first_steps: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine and measurement."""
    if not starts:
        return "Nothing has been measured. `python -m perf.start` measures it and writes its file."
    return "\n\n".join([*map(_render_machine, starts), *map(_render_first_step, first_steps)])


def _render_first_step(result: dict[str, Any]) -> str:
    width, height = result["size"]
    counts = {figures["wall"]["repetitions"] for figures in result["sides"].values()}
    head = (
        f"From the command to the first step, `{result['machine']}`, {result['date']}: {result['rows']} pairs with "
        f"photographs of {width} × {height} in files, LLaVA's processor at 336 pixels and a tiny LLaVA with LoRA, "
        f"{result['workers']} workers; whole processes in turn, medians of {max(counts)} repetitions with the cache of "
        f"references full, and the run before them that filled it. CPU seconds are those of the process and its "
        f"workers. The load average was {result['load_before']:.1f} before and {result['load_after']:.1f} after. "
        "Where wall and CPU seconds are about equal, the workers had about one core between them, and wall seconds are "
        "not those of free cores."
    )
    table = ["| version | cached: CPU, s | wall, s | first run: CPU, s | wall, s |", "|---|---:|---:|---:|---:|"]
    for name, figures in result["sides"].items():
        first = result["first_run"][name]
        table.append(
            f"| {name} | {figures['cpu']['median']:.0f} | {figures['wall']['median']:.0f} | {first['cpu']:.0f} | "
            f"{first['wall']:.0f} |"
        )
    return "\n".join([fill(head, WIDTH), "", *table, "", fill(f"Expected beforehand: {result['expected']}.", WIDTH)])


def _render_machine(result: dict[str, Any]) -> str:
    width, height = result["size"]
    one, *others = result["check"].items()
    head = (
        f"Machine `{result['machine']}`, {result['date']}, transformers {result['versions']['transformers']}; medians "
        f"of {one[1]['wall']['repetitions']} repetitions, all in turn. The load average of the machine was "
        f"{result['load_before']:.1f} before it was measured and {result['load_after']:.1f} after."
    )
    table = ["| command | wall, s | CPU, s |", "|---|---:|---:|"]
    for name, figures in result["commands"].items():
        table.append(f"| `{name}` | {figures['wall']['median']:.2f} | {figures['cpu']['median']:.2f} |")
    check = [
        f"The check before training, {result['rows']} pairs with photographs of {width} × {height} in files, mDPO's "
        f"two versions of each: {one[1]['wall']['median']:.1f} s in one process"
    ]
    for workers, figures in others:
        ratio = one[1]["wall"]["median"] / figures["wall"]["median"]
        check.append(
            f", {figures['wall']['median']:.1f} s with `dataset_num_proc: {workers}`, {ratio:.2f} times as fast"
        )
    return "\n".join([fill(head, WIDTH), "", *table, "", fill("".join(check) + ".", WIDTH)])
