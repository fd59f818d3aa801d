"""Measures what comes before the first step: `python -m perf.start`.

Commands are timed as whole processes, in turn. The check before training makes a batch of every pair: photographs of
640 × 480 in files, mDPO's two versions of each, LLaVA's own processor at 336 pixels; in one process and in several.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mmdpo import MDPOConfig
from mmdpo.data.check import find_faults
from mmdpo.training.assembly import build_collator
from mmdpo.training.rows import FullCheck, to_preferences
from perf.loader import PHOTOGRAPHS, SIZE, draw_photograph
from perf.measure import summarise
from perf.record import RESULTS, describe_run, write_result
from perf.rows import build_processor, draw_lengths
from perf.shapes import BODY

COMMANDS = (("--version",), ("--help",), ("train", "--help"), ("eval", "pope", "--help"))
ROWS = 256
WORKERS = (1, 2)


def main() -> None:
    """Measures, and writes a results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7, help="of every measurement")
    parser.add_argument("--tiny", action="store_true", help="few rows: tries the measurement, measures nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another --output")
    torch.set_num_threads(1)
    result = describe_run("cpu") | {"kind": "start", "miniature": options.tiny, "size": SIZE}
    result |= {"load_before": os.getloadavg()[0]}
    commands = {" ".join(("mmdpo", *words)): lambda words=words: _time_process(words) for words in COMMANDS}
    result["commands"] = _measure(commands, options.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder), 40 if options.tiny else ROWS)
        checks = {str(workers): lambda workers=workers: _time_check(rows, folder, workers) for workers in WORKERS}
        result |= {"rows": len(rows), "check": _measure(checks, options.repetitions)}
    result["load_after"] = os.getloadavg()[0]
    print(f"written to {write_result(result, options.output, prefix='start-')}")


def write_rows(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Writes photographs as JPEG files and returns pairs about them."""
    files = []
    for seed in range(min(PHOTOGRAPHS, rows)):
        files.append(folder / f"{seed}.jpg")
        files[-1].write_bytes(draw_photograph(seed))
    return [
        {
            "images": [str(files[k % len(files)])],
            "prompt": "<image>" + " ".join(f"w{word % 90}" for word in range(prompt)),
            "chosen": " ".join(f"w{(k + word) % 90}" for word in range(chosen)),
            "rejected": " ".join(f"w{(k + 7 * word) % 90}" for word in range(rejected)),
        }
        for k, (prompt, chosen, rejected) in enumerate(draw_lengths(BODY.lengths, rows, seed=0))
    ]


def _measure(sides: Mapping[str, Callable[[], dict[str, float]]], repetitions: int) -> dict[str, Any]:
    """Returns the figures of every side, measured in turn after a first time that does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(repetitions + 1):
        for name, side in sides.items():
            figures = side()
            if number:
                found[name].append(figures)
        print(f"{number} of {repetitions}: " + ", ".join(sides), flush=True)
    return {
        name: {figure: summarise([each[figure] for each in figures]) for figure in figures[0]}
        for name, figures in found.items()
    }


def _time_process(words: tuple[str, ...]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmdpo", *words], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _time_check(rows: list[dict[str, Any]], folder: str, workers: int) -> dict[str, float]:
    args = MDPOConfig(
        output_dir=folder, dataset_num_proc=workers, use_cpu=True, report_to="none", disable_tqdm=True, bf16=False
    )
    collator = build_collator(build_processor(BODY), BODY.config(), args)
    start = time.perf_counter()
    checked = find_faults(to_preferences(rows, "train", args), FullCheck(collator), num_workers=workers, progress=False)
    wall = time.perf_counter() - start
    assert len(checked.good) == len(rows)
    return {"wall": wall}


if __name__ == "__main__":
    main()
