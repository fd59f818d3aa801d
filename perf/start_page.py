"""The part of the page that tells what comes before the first step: the latest result of every machine."""

from __future__ import annotations

from textwrap import fill
from typing import Any

WIDTH = 120


def render_start(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.start` measures it and writes its file."
    return "\n\n".join(_render_machine(result) for result in results)


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
