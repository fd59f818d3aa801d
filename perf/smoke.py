"""Tries on the device what a CPU cannot show: `python -m perf.smoke`. Each check says what it found, and one line each.

Attention along trees by both kernels against the model's own, forward and backward; bf16; recomputed activations;
cached against live references; a run that resumes. `--cpu` tries the checks where there is no GPU, without the backward
pass of FlexAttention, which the CPU lacks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.world.pairs import make_pairs
from perf.rows import draw_lengths, make_rows
from perf.shapes import LARGE, TINY, Shape, shrink
from perf.sides import MDPO, MDPO_LIVE, ORIGINAL, Setting, build_sides, clear_gradients, compare_sides

FINE, COARSE = 2e-3, 0.1
"""Relative differences of gradients that rounding explains: float32 with TF32 in convolutions, and bfloat16."""


@dataclass(frozen=True)
class Found:
    """What a check found."""

    name: str
    passed: bool
    told: str
    seconds: float


def main() -> None:
    """Runs the checks, writes them as JSON, and ends with status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="where there is no GPU")
    parser.add_argument("--output", type=Path, required=True, help="folder of smoke.json")
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    options.output.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    for name, check in list_checks(device).items():
        found.append(_try(name, check))
        print(f"{'ok  ' if found[-1].passed else 'FAIL'} {name}: {found[-1].told}", flush=True)
        (options.output / "smoke.json").write_text(json.dumps([vars(it) for it in found], indent=1) + "\n")
    sys.exit(not all(it.passed for it in found))


def list_checks(device: str) -> dict[str, Callable[[], str]]:
    """Returns the checks of a device by name; each returns what it found, and raises AssertionError where it fails."""
    checks: dict[str, Callable[[], str]] = {}
    for name in LARGE:
        shape = shrink(LARGE[name])
        checks[f"{name}: shared rows against separate forwards"] = partial(check_sides, shape, Setting(device), FINE)
        half = Setting(device, torch.bfloat16)
        checks[f"{name}: bfloat16"] = partial(check_sides, shape, half, COARSE)
        recomputed = Setting(device, checkpointing=True)
        checks[f"{name}: recomputed activations"] = partial(check_sides, shape, recomputed, FINE)
    if device != "cpu":
        checks["llava: FlexAttention against SDPA, forward and backward"] = lambda: check_flex(device)
    checks["world: cached against live references"] = lambda: check_references(device)
    checks["world: a run that resumes"] = lambda: check_resuming(device)
    return checks


def _try(name: str, check: Callable[[], str]) -> Found:
    start = time.perf_counter()
    try:
        told, passed = check(), True
    except Exception as error:  # whatever goes wrong on a new device is a finding, and the next check is tried
        last = traceback.extract_tb(error.__traceback__)[-1]
        told, passed = f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})", False
    return Found(name, passed, told, time.perf_counter() - start)


def _build(shape: Shape, setting: Setting, wanted: tuple[str, ...]) -> Any:
    rows = make_rows(shape, draw_lengths(TINY.lengths, 3, seed=0), seed=0)
    return build_sides(shape, rows, setting, wanted)


def check_sides(shape: Shape, setting: Setting, tolerance: float) -> str:
    """Compares loss and gradients of ours, cached and live, with those of the original algorithm."""
    agreements = compare_sides(_build(shape, setting, (ORIGINAL, MDPO, MDPO_LIVE)))
    worst = max(max(it.loss_difference, it.gradient_difference) for it in agreements.values())
    assert worst <= tolerance, f"loss or gradients are off by {worst:.1e}, {tolerance:.0e} is allowed"
    return f"off by {worst:.1e}"


def check_flex(device: str) -> str:
    """Compares FlexAttention over whole rows with SDPA piece by piece."""
    gradients: dict[str, dict[str, Tensor]] = {}
    for kernel in ("sdpa", "flex_attention"):
        side = _build(shrink(LARGE["llava"]), Setting(device, kernel=kernel), (MDPO,))[MDPO]
        side.step()
        gradients[kernel] = {n: p.grad.float() for n, p in side.model.named_parameters() if p.grad is not None}
        clear_gradients(side)
    ours, theirs = gradients["flex_attention"], gradients["sdpa"]
    off = sum(float((ours[n] - theirs[n]).square().sum()) for n in theirs)
    worst = (off / sum(float(g.square().sum()) for g in theirs.values())) ** 0.5
    assert worst <= FINE, f"gradients are off by {worst:.1e}, {FINE:.0e} is allowed"
    return f"gradients off by {worst:.1e}"


def _train(device: str, folder: str, **changes: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Trains the embedded world for a few steps; returns losses and weights."""
    resumed = changes.pop("resumed", None)
    options: dict[str, Any] = dict(
        max_steps=4,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_steps=2,
        save_strategy="steps",
        seed=1,
        learning_rate=1e-4,
    )
    options |= dict(output_dir=folder, report_to="none", disable_tqdm=True, use_cpu=device == "cpu", bf16=False)
    trainer = MDPOTrainer("world", args=MDPOConfig(**{**options, **changes}), train_dataset=make_pairs(24, seed=3))
    trainer.train(resume_from_checkpoint=resumed)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: value.detach().float().cpu() for name, value in trainer.model.named_parameters()}


def check_references(device: str) -> str:
    """Compares the losses of a run whose references were scored before with those of one that asks in every step."""
    with tempfile.TemporaryDirectory() as folder:
        cache = dict(ref_cache_dir=f"{folder}/references")
        cached, _ = _train(device, f"{folder}/cached", **cache)
        live, _ = _train(device, f"{folder}/live", precompute_ref_log_probs=False, **cache)
    worst = max(abs(one - other) for one, other in zip(cached, live, strict=True))
    assert worst <= 5e-3, f"losses differ by {worst:.1e}: {cached} and {live}"
    return f"losses differ by {worst:.1e} at most"


def check_resuming(device: str) -> str:
    """Compares a run of four steps with one that goes on from its checkpoint after two."""
    with tempfile.TemporaryDirectory() as folder:
        cache = dict(ref_cache_dir=f"{folder}/references")
        losses, whole = _train(device, f"{folder}/run", **cache)
        again, resumed = _train(device, f"{folder}/run", resumed=f"{folder}/run/checkpoint-2", **cache)
    worst = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    apart = max(abs(one - other) for one, other in zip(losses, again, strict=True))
    assert apart <= 1e-3, f"losses differ by {apart:.1e}: {losses} and {again}"
    assert worst <= 1e-4, f"weights differ by {worst:.1e}"
    return f"weights differ by {worst:.1e} at most, losses by {apart:.1e}"


if __name__ == "__main__":
    main()
