"""Measures the training step on the CPU: `python -m perf.cpu`. One thread, float32, one process.

What is timed is forward and backward of one micro-batch that was made before. Ratios above 1 say that ours is faster;
ratios of memory below 1 that ours needs less.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmdpo import MDPOConfig
from perf.measure import Profile, Sizes, profile_step, time_interleaved, time_step, wall_clock
from perf.record import RESULTS, describe_run, summarise, write_result
from perf.rows import draw_lengths, make_rows
from perf.shapes import BODY, BRIEF, TINY, Shape
from perf.sides import (
    ALL,
    ANSWER_HEAD,
    MDPO,
    ORIGINAL,
    TRL,
    TRL_CACHED,
    Setting,
    Side,
    build_sides,
    check_agreement,
    compare_sides,
)

WANTED = {"body": ALL, "brief": tuple(name for name in ALL if name != TRL_CACHED)}
PAIRS = 4
SEED = 0
EPOCHS = 3
"""Over how many epochs one reference pass is spread in what is called amortised."""
GROWTH = [(1, 40, 120), (2, 40, 120), (4, 40, 120), (1, 40, 60), (1, 40, 240), (1, 160, 120), (1, 640, 120)]
"""Pairs, prompt tokens, tokens of each answer."""
RIVALS = (
    ("mdpo", ORIGINAL, "original"),
    ("mdpo", ANSWER_HEAD, "original_with_answer_only_head"),
    ("dpo", TRL, "trl"),
    ("dpo", TRL_CACHED, "trl_references_given"),
)
"""Objective, who else computes it, and how the ratio is called."""
TINY_GROWTH = [(1, 4, 3), (2, 4, 3)]


def main() -> None:
    """Measures, prints progress, and writes a results file after every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="timed steps of every side")
    parser.add_argument("--tiny", action="store_true", help="miniature shapes: tries the measurement, measures nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another --output")
    shapes = {"body": TINY, "brief": TINY} if options.tiny else {"body": BODY, "brief": BRIEF}
    result = describe_run("cpu") | {"seed": SEED, "repetitions": options.repetitions, "epochs": EPOCHS, "sides": {}}
    result["miniature"] = options.tiny
    result |= {"attention": _attention(), "shapes": {}, "lengths": {}, "growth": []}
    for name, shape in shapes.items():
        result["shapes"][name] = shape.describe()
        lengths = draw_lengths(shape.lengths, PAIRS, SEED)
        result["lengths"][name] = lengths
        result["sides"][name] = measure_shape(shape, lengths, WANTED[name], options.repetitions)
        result |= compute_ratios(result["sides"])
        write_result(result, options.output)
    for pairs, prompt, answer in TINY_GROWTH if options.tiny else GROWTH:
        result["growth"].append(measure_growth(shapes["body"], pairs, prompt, answer, min(3, options.repetitions)))
    print(f"written to {write_result(result, options.output)}")


def _attention() -> str:
    """Returns the default of the option that says how rows are laid out."""
    fields = MDPOConfig.__dataclass_fields__
    return str(fields["attention"].default) if "attention" in fields else "separate"


def measure_shape(
    shape: Shape, lengths: list[tuple[int, int, int]], wanted: tuple[str, ...], repetitions: int
) -> dict[str, Any]:
    """Returns times, memory and operations of the wanted sides, once they have been found to agree."""
    built = build_sides(shape, make_rows(shape, lengths, SEED), Setting(), wanted)
    profiles: dict[str, Profile] = {}

    def step(side: Side) -> float:
        profiles[side.name] = profile_step(side, Sizes.of(shape))
        return profiles[side.name].loss

    agreements = compare_sides(built, step)  # these steps warm up, too
    check_agreement(agreements)
    for name in built.keys() - agreements.keys():
        step(built[name])
    found: dict[str, dict[str, Any]] = {}
    for name in built:
        found[name] = asdict(profiles[name])
        if name in agreements:
            found[name]["agreement"] = asdict(agreements[name])
    start = time.perf_counter()
    for name, seconds in time_interleaved(built, repetitions, wall_clock).items():
        found[name] |= {"time": summarise(seconds), "each": seconds}
        megabytes = found[name]["peak_bytes"] / 1e6
        print(f"{shape.name:6} {name:28} {found[name]['time']['median']:8.3f} s {megabytes:8.0f} MB", flush=True)
    print(f"{shape.name:6} timed for {time.perf_counter() - start:.0f} s", flush=True)
    return found


def measure_growth(shape: Shape, pairs: int, prompt: int, answer: int, repetitions: int) -> dict[str, Any]:
    """Returns the times of the original and of ours for one number of pairs and one length."""
    rows = make_rows(shape, [(prompt, answer, answer)] * pairs, SEED)
    built = build_sides(shape, rows, Setting(), (ORIGINAL, MDPO))
    for side in built.values():
        time_step(side, wall_clock)
    times = {name: summarise(each) for name, each in time_interleaved(built, repetitions, wall_clock).items()}
    print(f"{pairs} pairs, prompt {prompt}, answers {answer}: {times[MDPO]['median']:.3f} s", flush=True)
    return {"pairs": pairs, "prompt": prompt, "answer": answer, "time": times}


def compute_ratios(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns ratios of medians, theirs over ours for time and operations, ours over theirs for memory."""
    ratios: dict[str, float] = {}
    for shape, found in measured.items():
        for method, rival, label in RIVALS:
            if rival not in found:
                continue
            ours, live, scoring = (found[f"{method}_{kind}"] for kind in ("warm", "live", "reference_pass"))
            warm, theirs = ours["time"]["median"], found[rival]["time"]["median"]
            spread = warm + scoring["time"]["median"] / EPOCHS
            name = f"{method}_vs_{label}_{shape}"
            for kind, seconds in (("warm", warm), ("amortised", spread), ("live", live["time"]["median"])):
                ratios[f"time_ratio.{name}_{kind}"] = theirs / seconds
            ratios[f"memory_ratio.{name}"] = ours["peak_bytes"] / found[rival]["peak_bytes"]
            ratios[f"flop_ratio.{name}_warm"] = sum(found[rival]["flops"].values()) / sum(ours["flops"].values())
    ratios["time_ratio.dpo_vs_trl"] = ratios["time_ratio.dpo_vs_trl_body_warm"]
    return ratios


if __name__ == "__main__":
    main()
