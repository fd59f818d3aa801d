"""Measures what comes before the first step: `python -m perf.start`.

Commands are timed as whole processes, in turn. The check before training makes a batch of every pair: photographs of
640 × 480 in files, mDPO's two versions of each, LLaVA's own processor at 336 pixels; in one process and in several.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmdpo import MDPOConfig
from mmdpo.data.check import find_faults
from mmdpo.training.assembly import build_collator
from mmdpo.training.rows import FullCheck, to_preferences
from perf.command import Figures, make_parser, read_options, time_in_turn, time_mmdpo, write_measured
from perf.loader import PHOTOGRAPHS, SIZE, draw_photograph
from perf.record import describe_run
from perf.rows import build_processor, draw_lengths
from perf.shapes import BODY

COMMANDS = (("--version",), ("--help",), ("train", "--help"), ("eval", "pope", "--help"))
ROWS = 256
WORKERS = (1, 2)


def main() -> None:
    """Measures, and writes a results file."""
    options = read_options(make_parser(__doc__, 7, tiny="few rows"))
    torch.set_num_threads(1)
    result = describe_run("cpu") | {"kind": "start", "miniature": options.tiny, "size": SIZE}
    result |= {"load_before": os.getloadavg()[0]}
    commands = {" ".join(("mmdpo", *words)): partial(time_mmdpo, *words) for words in COMMANDS}
    result["commands"] = time_in_turn(commands, options.repetitions, warm_up=1)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder), 40 if options.tiny else ROWS)
        checks = {str(workers): partial(_time_check, rows, folder, workers) for workers in WORKERS}
        result |= {"rows": len(rows), "check": time_in_turn(checks, options.repetitions, warm_up=1)}
    write_measured(result, options, "start")


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


def _time_check(rows: list[dict[str, Any]], folder: str, workers: int) -> Figures:
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
