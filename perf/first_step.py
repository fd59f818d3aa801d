"""Measures the time from the command to the first step: `python -m perf.first_step --side before=PATH --side now=src`.

Each side is the source folder of one version of the package. `mmdpo train` runs as a whole process until its first
step on photographs of 640 × 480 in files: LLaVA's own processor at 336 pixels, a tiny LLaVA with a LoRA adapter, two
dataloader workers, two processes for the check. A first run of each side fills its cache of references; the sides are
then timed in turn, with that cache. CPU seconds are those of the process and its workers: they depend less than
wall time on what else the machine does.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText

from perf.command import Figures, make_parser, read_options, time_in_turn, time_mmdpo, write_measured
from perf.loader import PHOTOGRAPHS, SIZE, draw_photograph
from perf.record import describe_run
from perf.rows import build_processor, draw_lengths
from perf.shapes import CLIP, Lengths, Shape

ROWS = 2000
WORKERS = 2
TINY_LLAVA = Shape(
    "tiny at 336 pixels",
    "llava",
    dict(hidden_size=64, num_hidden_layers=1, vocab_size=128, intermediate_size=96,
         num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=4096),
    {**CLIP, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2},
    lora_rank=2,
    image_size=336,
    lengths=Lengths(prompt=(4, 40), answer=(10, 60)),
)  # fmt: skip
EXPECTED = (
    "before: imports and model 10 s, check of every row 50 s of CPU in two processes, keys of the cache 4 s; now: no "
    "picture is decoded that was tried before with the same content and options, so that the reading of files and the "
    "rendering of texts remain (about 5 s of CPU): a third of the time"
)
"""What was expected before the first measurement of both sides."""


def main() -> None:
    """Measures, and writes a results file."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--side", action="append", required=True, help="NAME=FOLDER with the package's source")
    parser.add_argument("--rows", type=int, default=ROWS, help="photographs; fewer try the measurement")
    options = read_options(parser, lambda options: options.rows != ROWS)
    sides = dict(side.split("=", 1) for side in options.side)
    result = describe_run("cpu") | {
        "kind": "first_step",
        "miniature": options.rows != ROWS,
        "size": SIZE,
        "rows": options.rows,
    }
    result["commits"] = {name: name_commit(Path(source)) for name, source in sides.items()}
    result |= {"workers": WORKERS, "expected": EXPECTED, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_run(Path(folder), options.rows)
        first = {name: time_run(recipe, Path(source), name) for name, source in sides.items()}
        print(f"caches filled: {first}", flush=True)
        turns = {name: partial(time_run, recipe, Path(source), name) for name, source in sides.items()}
        result["sides"] = time_in_turn(turns, options.repetitions)
    result["first_run"] = first
    write_measured(result, options, "first-step")


def write_run(folder: Path, rows: int) -> Path:
    """Writes a checkpoint, photographs, pairs about them and a recipe; returns the recipe's path."""
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(TINY_LLAVA.config()).save_pretrained(folder / "model")
    build_processor(TINY_LLAVA).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    write_photographs(folder / "images", rows)
    with (folder / "pairs.jsonl").open("w") as file:
        for k, (prompt, chosen, rejected) in enumerate(draw_lengths(TINY_LLAVA.lengths, rows, seed=0)):
            pair = {
                "images": [f"images/{k}.jpg"],
                "prompt": "<image> " + _words(prompt),
                "chosen": _words(chosen, k),
                "rejected": _words(rejected, k + 1),
            }
            file.write(json.dumps(pair) + "\n")
    recipe = {
        "model_name_or_path": str(folder / "model"), "dataset_name": str(folder / "pairs.jsonl"), "use_peft": True,
        "lora_r": 2, "objective": "mdpo", "max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "precompute_ref_log_probs": True, "save_strategy": "no",
        "dataloader_num_workers": WORKERS, "dataset_num_proc": WORKERS, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def write_photographs(folder: Path, count: int) -> None:
    """Writes JPEG files of different content: some photographs, each shifted over itself as often as is needed."""
    for seed in range(min(PHOTOGRAPHS, count)):
        pixels = np.asarray(Image.open(io.BytesIO(draw_photograph(seed))))
        for place in range(seed, count, PHOTOGRAPHS):
            Image.fromarray(np.roll(pixels, place, axis=(0, 1))).save(folder / f"{place}.jpg", quality=90)


def name_commit(source: Path) -> str | None:
    """Returns the commit that a folder of sources was checked out from, None where it is in no repository."""
    command = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def time_run(recipe: Path, source: Path, side: str) -> Figures:
    """Returns wall and CPU seconds of a run until its first step, with the cache of that side."""
    with tempfile.TemporaryDirectory() as out:
        environment = {
            "PYTHONPATH": str(source.resolve()), "HF_HOME": str(recipe.parent / f"cache-{side}"),
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        words = ("train", "--config", str(recipe), "--output_dir", f"{out}/run")
        return time_mmdpo(*words, environment=environment, folder=recipe.parent)


def _words(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + 7 * place) % 90}" for place in range(count))


if __name__ == "__main__":
    main()
