"""Measures how fast a stream is read: `python -m perf.loader`. Two dataloader workers, photographs of 640 × 480.

Rows lie in Parquet shards; a worker reads, decodes, corrupts, runs LLaVA's own processor at 336 pixels, and tokenises.
First batches are taken at the pace of a training step, and every wait is counted; then as fast as they come, while the
memory of all processes is read. The photographs are synthetic: brightness and colour vary at all scales, as in nature.

With `--before FOLDER`, a checkout of another version (`git worktree add FOLDER COMMIT`), both versions read in turn, so
that what else the machine does meets both: CPU seconds and time of a batch are compared, turn by turn.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from mmdpo import MDPOConfig
from mmdpo.data.read import read_stream
from mmdpo.data.stream import PreferenceStream
from mmdpo.training.assembly import build_collator
from mmdpo.training.streams import SkippedRows, StreamLoader, make_stream_items
from perf.record import RESULTS, describe_run, summarise, write_result
from perf.rows import build_processor, draw_lengths
from perf.shapes import BODY
from perf.versions import add_before, compare_versions, take_turns

WORKERS = 2
BATCH = 8
STEP_S = 0.1
SIZE = (640, 480)
PHOTOGRAPHS = 64
SHARDS, ROWS = 4, 500
TURNS, TURN_BATCHES = 7, 40
"""Turns of each version, and the batches of one."""
LOOK_EVERY = 20
"""Batches between two looks at the memory."""


def main() -> None:
    """Writes shards, measures, and writes a results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000, help="how many are read while memory is watched")
    parser.add_argument("--steps", type=int, default=200, help="steps at the pace of training")
    parser.add_argument("--tiny", action="store_true", help="few rows: tries the measurement, measures nothing")
    add_before(parser)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another --output")
    torch.set_num_threads(1)
    if options.turns:
        (shards,) = options.turns
        stream = read_stream(shards)
        take_turns(lambda: read_batches(stream, shards))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = 12 if options.tiny else ROWS
        sizes = write_shards(Path(folder), rows)
        result = describe_run("cpu") | {"kind": "loader", "miniature": options.tiny, "workers": WORKERS, "batch": BATCH}
        result |= {"step": STEP_S, "size": SIZE, "bytes": statistics.mean(sizes), "rows": SHARDS * rows}
        stream = read_stream(folder)
        result["load_before"] = os.getloadavg()[0]
        if options.before is not None:
            turns = compare_versions("perf.loader", options.before, ["--turns", folder], 1 if options.tiny else TURNS)
            result["turns"] = {"batches": TURN_BATCHES, **turns}
        result |= measure_pace(make_loader(stream, folder), options.steps)
        result |= measure_stream(make_loader(stream, folder), options.examples)
        result |= {"read_over_per_second": measure_reading_over(stream), "load_after": os.getloadavg()[0]}
    print(f"written to {write_result(result, options.output, prefix='loader-')}")


def make_loader(stream: PreferenceStream, folder: str) -> StreamLoader:
    """Returns the loader that a run with two workers has."""
    args = MDPOConfig(
        output_dir=folder,
        dataloader_num_workers=WORKERS,
        per_device_train_batch_size=BATCH,
        max_steps=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    collator = build_collator(build_processor(BODY), BODY.config(), args)
    items = make_stream_items(stream, "train", collator, args)
    return StreamLoader(items, collator, args, BATCH, SkippedRows(Path(folder) / "skipped.jsonl"))


def measure_pace(loader: StreamLoader, steps: int) -> dict[str, Any]:
    """Returns how long each step had to wait for its batch, after a first tenth that fills the queue."""
    waits, batches = [], iter(loader)
    for _ in range(steps):
        start = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - start)
        time.sleep(STEP_S)
    settled = waits[steps // 10 :]
    print(f"paced: waited {sum(settled) / len(settled):.4f} s a step, first batch {waits[0]:.2f} s", flush=True)
    return {"wait": summarise(settled), "mean_wait": statistics.mean(settled), "first_batch": waits[0]}


def measure_stream(loader: StreamLoader, examples: int) -> dict[str, Any]:
    """Returns speed, CPU time of the workers, and memory of all processes, batches taken as fast as they come."""
    memory: list[tuple[int, float]] = []
    batches, every = iter(loader), min(LOOK_EVERY, max(1, examples // BATCH // 8))
    next(batches)
    start, used = time.perf_counter(), _cpu_of_workers()
    for number in range(1, examples // BATCH + 1):
        next(batches)
        if number % every == 0:
            memory.append((number * BATCH, _megabytes()))
            if len(memory) % 10 == 0:
                print(f"{number * BATCH} examples, {memory[-1][1]:.0f} MB", flush=True)
    taken = number
    quarters = [[mb for count, mb in memory if (k - 1) * examples < 4 * count <= k * examples] for k in (1, 2, 3, 4)]
    return {
        "examples": examples,
        "batch_seconds": (time.perf_counter() - start) / taken,
        "cpu_seconds_per_batch": (_cpu_of_workers() - used) / taken,
        "megabytes": [statistics.median(quarter) for quarter in quarters],
        "memory": memory,
    }


def read_batches(stream: PreferenceStream, folder: str) -> dict[str, float]:
    """Returns what a batch costs that is read as fast as it comes."""
    batches = iter(make_loader(stream, folder))
    for _ in range(2 * WORKERS + 1):  # the queue is full, and what workers do once is done
        next(batches)
    start, used = time.perf_counter(), _cpu_of_workers()
    for _ in range(TURN_BATCHES):
        next(batches)
    return {
        "batch_seconds": (time.perf_counter() - start) / TURN_BATCHES,
        "cpu_seconds_per_batch": (_cpu_of_workers() - used) / TURN_BATCHES,
    }


def measure_reading_over(stream: PreferenceStream) -> float:
    """Returns how many rows a second are read over where a stream goes on amid a shard."""
    rows = sum(1 for _ in stream.read(0))
    start = time.perf_counter()
    for _ in range(5):
        assert not list(stream.read(0, rows))
    return 5 * rows / (time.perf_counter() - start)


def write_shards(folder: Path, rows: int) -> list[int]:
    """Writes shards of pairs and returns the lengths of the photographs in bytes."""
    photographs = [draw_photograph(seed) for seed in range(PHOTOGRAPHS)]
    features = datasets.Features(
        {**dict.fromkeys(("prompt", "chosen", "rejected"), datasets.Value("string")), "image": datasets.Image()}
    )
    for shard in range(SHARDS):
        lengths = draw_lengths(BODY.lengths, rows, shard)
        table = datasets.Dataset.from_list(
            [
                {
                    "prompt": f"USER: <image> {_words(prompt)} ASSISTANT:",
                    "chosen": f" {_words(chosen, 1)}",
                    "rejected": f" {_words(rejected, 2)}",
                    "image": {"bytes": photographs[(shard * rows + row) % PHOTOGRAPHS], "path": None},
                }
                for row, (prompt, chosen, rejected) in enumerate(lengths)
            ],
            features=features,
        )
        table.to_parquet(folder / f"train-{shard}.parquet")
    return [len(photograph) for photograph in photographs]


def draw_photograph(seed: int) -> bytes:
    """Returns a JPEG whose brightness and colour vary at all scales, the coarse ones most."""
    generator, (width, height) = np.random.default_rng(seed), SIZE
    picture, cells = np.zeros((height, width, 3), dtype=np.float32), 3
    while cells <= height:
        drawn = generator.normal(size=(cells, cells * width // height, 3)).astype(np.float32)
        scale = [np.asarray(Image.fromarray(drawn[..., c]).resize(SIZE, Image.Resampling.BICUBIC)) for c in range(3)]
        colour = np.stack(scale, axis=-1)
        picture += (0.8 * colour.mean(-1, keepdims=True) + 0.2 * colour) / cells**0.7
        cells *= 2
    picture = 118 + 55 * (picture - picture.mean()) / picture.std()
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _words(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + 7 * place) % 90}" for place in range(count))


def _processes() -> Iterator[Path]:
    """Yields the folders under /proc of this process and of its workers."""
    own = os.getpid()
    yield Path(f"/proc/{own}")
    for children in Path(f"/proc/{own}/task").glob("*/children"):
        yield from (Path(f"/proc/{child}") for child in children.read_text().split())


def _megabytes() -> float:
    """Returns the memory of all processes; a page that several share counts once."""
    total = 0
    for process in _processes():
        lines = (process / "smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _cpu_of_workers() -> float:
    ticks = 0
    for process in list(_processes())[1:]:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
