"""Trains once to the end, and once killed ten times; a script, so that children are forked from one thread.

Leaves attempts.json: what each attempt was killed by, and which checkpoints it left.
"""

import faulthandler
import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import yaml

from mmdpo.models.weights import CheckpointError
from mmdpo.training.durable.resume import RESOLVED_RECIPE
from mmdpo.training.durable.sealing import is_unfinished, list_checkpoints, read_record
from mmdpo.training.run import train
from mmdpo.world.pairs import make_pairs

KILLS = 10

ATTEMPT_S = 240
"""Seconds that an attempt gets: many times what one takes."""

OPTIONS = {
    "model_name_or_path": "world",
    "use_peft": True,
    "lora_r": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "test_split_size": 0.2,
    "eval_strategy": "epoch",
    "learning_rate": 1e-3,
    "corruption_per_epoch": True,
    "gradient_checkpointing": False,
    "logging_steps": 3,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def start(recipe: Path, folder: Path, kill_at_event: int | None = None) -> int:
    """Forks a child that trains; at so many file operations in the run folder it kills itself. Returns its id."""
    child = os.fork()
    if child:
        return child
    faulthandler.dump_traceback_later(ATTEMPT_S, exit=True)  # one that hangs says where
    gc.freeze()  # what is imported: to look through it for garbage would copy it
    status = 1
    try:
        if kill_at_event is not None:
            kill_at(kill_at_event, folder)
        train(["--config", str(recipe), "--output_dir", str(folder), "--resume_from_checkpoint", "true"])
        status = 0
    finally:
        os._exit(status)


def kill_at(count: int, folder: Path) -> None:
    """Kills this process before it opens, makes, renames or removes something of a checkpoint for the count-th time."""
    left = count

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        changes = event == "open" or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if changes and str(arguments[0]).startswith((f"{folder}/checkpoint", f"{folder}/_unfinished")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def find_whole(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints, all of which have to be whole unless they were never sealed."""
    for checkpoint in list_checkpoints(folder):
        read_record(checkpoint)
    return [int(path.name.partition("-")[2]) for path in list_checkpoints(folder)]


def when_training_began(folder: Path) -> int:
    """Returns when the last attempt came as far as its first step."""
    recipe = folder / RESOLVED_RECIPE
    return recipe.stat().st_mtime_ns if recipe.exists() else 0


def write_recipe(folder: Path) -> Path:
    """Writes pairs of the embedded world and a recipe that trains on them."""
    lines = []
    for number, row in enumerate(make_pairs(20, seed=3)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**OPTIONS, "dataset_name": str(folder / "pairs.jsonl")}))
    return recipe


def main(folder: Path, seed: int) -> None:
    """Leaves the runs `whole` and `killed` in a folder."""
    recipe, chance, attempts = write_recipe(folder), random.Random(seed), []
    began = time.monotonic()
    assert os.waitpid(start(recipe, folder / "whole"), 0)[1] == 0
    duration = time.monotonic() - began
    killed = folder / "killed"
    for attempt in range(KILLS):
        event = chance.randint(1, 150) if attempt % 2 else None
        before = when_training_began(killed)
        child = start(recipe, killed, event)
        if event is None:
            while when_training_began(killed) == before:
                ended, status = os.waitpid(child, os.WNOHANG)
                assert not ended, f"attempt {attempt} ended with {status} before it trained"
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.15) * duration)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        try:
            whole, fault = find_whole(killed), None
        except CheckpointError as error:
            whole, fault = [], str(error)
        unsealed = [path for path in killed.glob("checkpoint-*") if is_unfinished(path)]
        left = sorted(path.name for path in [*(killed / "_unfinished").glob("*"), *unsealed])
        attempts.append({"event": event, "status": status, "whole": whole, "fault": fault, "left": left})
    last = os.waitpid(start(recipe, killed), 0)[1]
    report = {"attempts": attempts, "last": last, "seconds": duration}
    (folder / "attempts.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
