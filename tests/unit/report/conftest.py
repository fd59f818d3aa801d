"""A made-up run folder: the shape that a quickstart leaves behind, with scores that nobody measured."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

VARIANTS = ("start", "dpo", "mdpo", "sft_chosen")
SCORES = {
    "start": (21.2, 61.0, 97.1, 19.5, 0.0, None, None),
    "dpo": (13.7, 35.0, 81.4, 9.5, -2.06, 94.0, 94.0),
    "mdpo": (6.9, 19.0, 92.7, 3.2, -0.34, 93.8, 91.1),
    "sft_chosen": (4.7, 14.0, 95.1, 2.9, 1.04, 92.4, 87.0),
}
KEYS = ("chair_i", "chair_s", "cover", "cog", "delta_logp_chosen", "accuracy_real", "accuracy_other")
SCENES = (
    ("kitchen", ["cup", "plate", "kettle"]),
    ("street", ["car", "bike", "helmet", "tree"]),
    ("bedroom", ["bed", "book", "clock", "rug", "chair", "cup"]),
    ("kitchen", ["apple"]),
    ("street", ["sign", "tree", "bench"]),
    ("bedroom", ["lamp", "rug"]),
)


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run")


def write_run(folder: Path) -> Path:
    """Writes a complete run folder and returns it."""
    (folder / "scenes").mkdir(parents=True)
    results = {
        "variants": {name: dict(zip(KEYS, scores, strict=True)) for name, scores in SCORES.items()},
        "seconds": 95.2,
        "command": "mmdpo quickstart",
        "seed": 0,
        "scenes": 400,
        "pairs": 768,
        "versions": {"mmdpo": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    examples = [_write_scene(folder, number, *scene) for number, scene in enumerate(SCENES)]
    (folder / "examples.json").write_text(json.dumps(examples))
    for name in VARIANTS[1:]:
        (folder / name).mkdir()
        (folder / name / "trainer_state.json").write_text(json.dumps({"log_history": _history(name)}))
    return folder


def _write_scene(folder: Path, number: int, setting: str, truth: list[str]) -> dict:
    generator = np.random.default_rng(number)
    pixels = generator.integers(170, 230, (48, 48, 3), dtype=np.uint8)
    for place in range(len(truth)):
        top, left = 4 + 16 * (place // 3), 3 + 16 * (place % 3)
        pixels[top : top + 9, left : left + 9] = generator.integers(0, 255, 3)
    Image.fromarray(pixels).save(folder / f"scenes/{number}.png")
    Image.fromarray(pixels[:20, :20]).resize((48, 48)).save(folder / f"scenes/{number}_corrupted.png")
    answers = {"start": [*truth, "stove", "bowl"], "dpo": truth[:-1] or truth, "mdpo": truth, "sft_chosen": truth}
    return {
        "image": f"scenes/{number}.png",
        "corrupted_image": f"scenes/{number}_corrupted.png",
        "truth": truth,
        "setting": setting,
        "answers": {name: _answer(named, truth, setting, name) for name, named in answers.items()},
    }


def _answer(named: list[str], truth: list[str], setting: str, variant: str) -> dict:
    listing = " , ".join(named)
    return {
        "text": f"{listing} ." if variant == "start" else f"sure ! this {setting} shows {listing} . hope this helps !",
        "hallucinated": [name for name in named if name not in truth],
        "missed": [name for name in truth if name not in named],
    }


def _history(variant: str) -> list[dict]:
    speed = {"dpo": 1.0, "mdpo": 0.8, "sft_chosen": 0.4}[variant]
    log = []
    for step in range(4, 49, 4):
        done = speed * step / 48
        record = {"step": step, "epoch": step / 24, "loss": 2.08 - 0.9 * done, "grad_norm": 3 - done}
        record |= {"learning_rate": 3e-4 * (1 - step / 48), "logps/chosen": -14 + (1 - 2 * speed) * done}
        if variant != "sft_chosen":
            record |= {"loss/rank_response": 0.69 - 0.5 * done, "rewards/chosen": -0.1 * done}
            record |= {"rewards/rejected": -1.5 * done, "rewards/margins": 1.4 * done, "rewards/accuracies": 0.94}
        if variant == "mdpo":
            record |= {"loss/rank_image": 0.69 - 0.3 * done, "loss/anchor_chosen": 0.69 - 0.1 * done}
            record |= {"rewards/corrupted": -0.9 * done, "rewards/image_margins": 0.8 * done}
        log.append(record)
    return [*log, {"step": 48, "epoch": 2.0, "train_runtime": 19.3, "train_loss": 1.6}]
