"""The part of the page that tells how fast a stream is read: the latest result of every machine."""

from __future__ import annotations

from statistics import median
from textwrap import fill
from typing import Any

WIDTH = 120


def render_loader(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.loader` measures it and writes its file."
    return "\n\n".join(_render_machine(result) for result in results)


def _render_machine(result: dict[str, Any]) -> str:
    width, height = result["size"]
    wait, memory = result["wait"], ", ".join(f"{megabytes:.0f}" for megabytes in result["megabytes"])
    workers, step, waited = result["workers"], 1000 * result["step"], 1000 * result["mean_wait"]
    busy, taken = 1000 * result["cpu_seconds_per_batch"], 1000 * result["batch_seconds"]
    over = 100_000 / result["read_over_per_second"]
    paragraphs = [
        f"Machine `{result['machine']}`, {result['date']}, {workers} workers, transformers "
        f"{result['versions']['transformers']}; Parquet shards, photographs of {width} × {height} in files of "
        f"{result['bytes'] / 1000:.0f} kB, mDPO's two versions of each, LLaVA's processor at 336 pixels, batches of "
        f"{result['batch']}. The load average of the machine was {result['load_before']:.1f} before it was measured "
        f"and {result['load_after']:.1f} after.",
        f"- A step of {step:.0f} ms waits {waited:.0f} ms for its batch on average, "
        f"median {1000 * wait['median']:.0f}, at most {1000 * wait['max']:.0f}. The first batch is there after "
        f"{result['first_batch']:.1f} s, when the shuffle buffers are full.",
        f"- A batch takes {busy:.0f} ms of CPU time, so {workers} workers that have a core each make one in "
        f"{busy / workers:.0f} ms; measured without pause: one in {taken:.0f} ms.",
        f"- Memory of all processes over {result['examples']} examples, medians of the quarters: {memory} MB.",
        f"- Where a stream goes on amid a shard, the rows before are read over, undecoded: {over:.1f} s for 100,000.",
    ]
    if "turns" in result:
        paragraphs.insert(3, _render_turns(result["turns"], workers))
    return "\n".join(
        [fill(paragraphs[0], WIDTH), "", *(fill(p, WIDTH, subsequent_indent="  ") for p in paragraphs[1:])]
    )


def _render_turns(turns: dict[str, Any], workers: int) -> str:
    def median_of(name: str, version: str) -> float:
        return 1000 * float(median(turn[name] for turn in turns[version]))

    cpu, wall = "cpu_seconds_per_batch", "batch_seconds"
    pairs = list(zip(turns["before"], turns["after"], strict=True))
    ratios = {name: median(after[name] / before[name] for before, after in pairs) for name in (cpu, wall)}
    return (
        f"- Against version {turns['commit_before']}, {len(pairs)} turns of {turns['batches']} batches each, medians: "
        f"{median_of(cpu, 'before'):.0f} → {median_of(cpu, 'after'):.0f} ms of CPU time ({ratios[cpu]:.2f} times), "
        f"{median_of(cpu, 'before') / workers:.0f} → {median_of(cpu, 'after') / workers:.0f} ms a batch on {workers} "
        f"workers with a core each; as measured {median_of(wall, 'before'):.0f} → {median_of(wall, 'after'):.0f} ms "
        f"({ratios[wall]:.2f} times)."
    )
