"""Measures what pairs from a million verdicts cost: `python -m perf.pairs`.

A run of the data engine is written as sampling and judging leave it: prompts about pictures of their own, nine answers
to each, and a verdict with claims on every answer. `mmdpo pairs build` then runs as a whole process.
"""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from mmdpo.files import write_json, write_rows
from mmdpo.pairs.judges import Claim, Verdict
from mmdpo.pairs.prompts import Prompt, read_prompts
from mmdpo.pairs.samples import DRAW, GREEDY, Sample
from mmdpo.pairs.second_process import MANY
from perf.command import make_parser, read_options, time_in_turn, time_mmdpo, write_measured
from perf.loader import draw_photograph
from perf.record import describe_run

VERDICTS, ANSWERS = 1_000_000, 9
CONFIG = "pairs.yaml"
OBJECTS = tuple(f"{colour} {thing}" for colour in ("red", "small", "old", "wooden") for thing in (
    "dog", "cup", "sofa", "lamp", "table", "tree", "bench", "window", "bicycle", "bottle", "chair", "clock", "plate"
))  # fmt: skip
NAMED = (4, 9)
"""Least and most objects that an answer names: each is a claim."""
PICTURE = (160, 120)
TARGET_SECONDS, TARGET_GIB = 60, 2.0
EXPECTED = (
    "first, verdicts read once and all pairs held in memory until they are written: 30 to 50 s and 2 GiB, and it took "
    "183 s (188 s and 2.3 GiB when measured again beside the second design, on the same verdicts, with the same pairs "
    "to the byte). Then, prompt by prompt: what is known of an offer stands in columns, a pair is read a second time "
    "as it is written, texts are split and claims counted once, no torch is loaded: 60 s and below 1 GiB; it took 83 s "
    "and 0.7 GiB. Now words stand in for patterns of style, and half of the offers are made in a second process: 53 to "
    "59 s, 70 to 75 s of CPU, below 1 GiB in each process; it took 62 s and 79 s of CPU. Now a second process also "
    "counts what pairs are like, and looks for a shortcut in their texts, while the first one writes them: 55 to 58 s, "
    "86 s of CPU, as each pair is read once more"
)
"""What was expected before the first measurement, and before that of each further design."""


def main() -> None:
    """Measures, and writes a results file."""
    parser = make_parser(__doc__, 1)
    parser.add_argument("--verdicts", type=int, default=VERDICTS, help="fewer try the measurement")
    parser.add_argument("--folder", type=Path, help="keep what is written there, and take it where it is there already")
    options = read_options(parser, lambda options: options.verdicts != VERDICTS)
    is_trial = options.verdicts != VERDICTS
    result = describe_run("cpu") | {"kind": "pairs", "miniature": is_trial, "answers": ANSWERS, "expected": EXPECTED}
    result |= {"target": {"seconds": TARGET_SECONDS, "gib": TARGET_GIB}, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        config = folder / CONFIG
        if not config.is_file():
            # In a process of its own: Linux counts what a process held before `exec` among the most of the new one.
            with get_context("spawn").Pool(1) as pool:
                pool.apply(write_folder, (folder, round(options.verdicts / ANSWERS)))
        words = ("pairs", "build", "--config", str(config))
        side = partial(time_mmdpo, *words, environment={"HF_HUB_OFFLINE": "1"})
        result |= time_in_turn({"build": side}, options.repetitions)
        result["pairs"] = json.loads((folder / "run" / "pairs.json").read_text())["pairs"]
    prompts = round(options.verdicts / ANSWERS)
    result |= {"prompts": prompts, "verdicts": options.verdicts, "processes": 1 if prompts < MANY else 2}
    write_measured(result, options, "pairs")


def write_folder(folder: Path, count: int) -> None:
    """Writes pictures, prompts, answers and verdicts, and the file of `mmdpo pairs`."""
    torch.set_num_threads(1)
    pictures, run = folder / "pictures", folder / "run"
    pictures.mkdir(parents=True)
    run.mkdir()
    photograph, encoded = Image.open(io.BytesIO(draw_photograph(0))).resize(PICTURE), io.BytesIO()
    photograph.save(encoded, "JPEG")
    picture = encoded.getvalue()
    rows = []
    for number in range(count):
        path = pictures / f"{number}.jpg"
        path.write_bytes(picture + number.to_bytes(4, "big"))  # what follows the end of a JPEG makes it another file
        rows.append({"id": str(number), "image": str(path), "prompt": "Describe this photograph."})
    write_rows(folder / "prompts.jsonl", rows)
    prompts = read_prompts(str(folder / "prompts.jsonl"))
    write_rows(run / "prompts.jsonl", map(_note, prompts))
    draw = random.Random(0)
    answers = [_answer(prompt.id, k, draw) for prompt in prompts for k in range(ANSWERS)]
    write_rows(run / "samples.jsonl", (sample._asdict() for sample, _ in answers))
    judged = (
        {"id": prompt.id, "verdicts": {str(k): answers[place * ANSWERS + k][1].row() for k in range(ANSWERS)}}
        for place, prompt in enumerate(prompts)
    )
    write_rows(run / "verdicts-claims.jsonl", judged)
    write_json(run / "judge-claims.json", {"judge": {"judge": "claims", "words": "claims-1"}})
    settings = {"seed": 0, "temperature": 1.0, "top_p": 1.0}
    write_json(run / "sampler.json", {"sampler": {"model": "a", "weights": "0" * 20}, "settings": settings})
    (folder / CONFIG).write_text(
        yaml.safe_dump(
            {"prompts": str(folder / "prompts.jsonl"), "model": "a", "out": str(run), "judges": ["claims"]}
            | {"judge_model": "b", "num_samples": ANSWERS - 1}
        )
    )


def _note(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "digest": prompt.digest, "images": list(prompt.image_digests)}


def _answer(prompt: str, k: int, draw: random.Random) -> tuple[Sample, Verdict]:
    named = draw.sample(OBJECTS, draw.randint(*NAMED))
    text = "The photograph shows " + ", ".join(f"a {name}" for name in named) + "."
    claims = tuple(Claim(f"There is a {name}.", draw.random() > 0.15, None, 0) for name in named)
    sample = Sample(prompt, k, text, DRAW if k else GREEDY, tokens=len(text) // 4, prompt_tokens=600, logprob=-40.0)
    return sample, Verdict(float(sum(1 if claim.is_true else -2 for claim in claims)), claims)


if __name__ == "__main__":
    main()
