"""Measures the training step on a GPU: `python -m perf.gpu`. bf16 weights of the real sizes, random, LoRA of rank 64.

Every case is one model, batch size and way of keeping activations. The file is written after every case, so that a run
that is cut short leaves what it measured. `--tiny` tries all of it in miniature, on the CPU.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

from perf.cpu import EPOCHS, SEED
from perf.measure import Sizes, event_clock, profile_step, time_interleaved, time_step, wall_clock
from perf.record import RESULTS, describe_run, summarise, write_result
from perf.rows import draw_lengths, make_rows
from perf.shapes import LARGE, Shape, shrink
from perf.sides import (
    ANSWER_HEAD,
    DPO,
    MDPO,
    MDPO_LIVE,
    MDPO_PASS,
    ORIGINAL,
    TRL,
    Setting,
    Side,
    build_sides,
    clear_gradients,
    compare_sides,
)

SIDES = (ORIGINAL, ANSWER_HEAD, MDPO, MDPO_LIVE, MDPO_PASS)
AGAINST_TRL = (TRL, DPO)
WARM_UP = 3


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    models: Sequence[str]
    batches: Sequence[int]
    repetitions: int
    largest: bool = True
    tiny: bool = False
    kernels: Sequence[str] = ("flex_attention",)
    """Beside PyTorch's scaled dot-product attention, which every case has."""

    @property
    def setting(self) -> Setting:
        """Where it runs."""
        return Setting() if self.tiny else Setting(device="cuda", dtype=torch.bfloat16)

    def shape(self, model: str) -> Shape:
        """Returns the shape of a model by name."""
        return shrink(LARGE[model]) if self.tiny else LARGE[model]


def main() -> None:
    """Measures case after case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=LARGE, default=list(LARGE))
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 1], help="pairs of a micro-batch")
    parser.add_argument("--repetitions", type=int, default=20, help="timed steps of every side")
    parser.add_argument("--no-largest", action="store_true", help="do not look for the largest batch that fits")
    parser.add_argument("--tiny", action="store_true", help="miniature shapes on the CPU: measures nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args()
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another --output")
    if not options.tiny and not torch.cuda.is_available():
        parser.error("no GPU is visible; --tiny tries the measurement without one")
    if options.tiny:
        torch.set_num_threads(1)
    plan = Plan(options.models, options.batches, options.repetitions, not options.no_largest, options.tiny)
    # On a CPU the kernel is compiled for half a minute, and does not run backwards.
    run(replace(plan, kernels=()) if options.tiny else plan, options.output)


def run(plan: Plan, output: Path) -> dict[str, Any]:
    """Measures the plan and returns the result, which lies in the output folder as far as it has come."""
    result = describe_run(plan.setting.device) | {"seed": SEED, "repetitions": plan.repetitions, "epochs": EPOCHS}
    result |= {"trl_measured": find_spec("trl") is not None, "miniature": plan.tiny}
    result["matmul_flops_per_second"] = _measure_ceiling(plan)
    result |= {"shapes": {name: plan.shape(name).describe() for name in plan.models}, "cases": []}
    for case in _measure_cases(plan):
        result["cases"].append(case)
        result |= compute_ratios(result["cases"])
        print(_line(case), flush=True)
        write_result(result, output)
    return result


def _measure_cases(plan: Plan) -> Iterator[dict[str, Any]]:
    for model in plan.models:
        for checkpointing in (False, True):
            setting = replace(plan.setting, checkpointing=checkpointing)
            for batch in plan.batches:
                yield from _measure_case(plan, model, batch, setting, SIDES)
                if find_spec("trl") is not None:
                    yield from _measure_case(plan, model, batch, setting, AGAINST_TRL)
        for kernel, batch in product(plan.kernels, plan.batches):
            yield from _measure_case(plan, model, batch, replace(plan.setting, kernel=kernel), (MDPO,))
        for checkpointing in (False, True) if plan.largest else ():
            for side in (ORIGINAL, MDPO):
                setting = replace(plan.setting, checkpointing=checkpointing)
                most = _find_largest(plan, model, setting, side)
                for case in _measure_case(plan, model, most, setting, (side,)) if most else ():
                    yield case | {"largest": True}


def _measure_case(
    plan: Plan, model: str, batch: int, setting: Setting, wanted: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yields one case: what each side took, or why it could not run."""
    shape, is_first = plan.shape(model), batch == min(plan.batches)
    case: dict[str, Any] = {"model": model, "batch": batch, **_describe(setting), "sides": {}}
    lengths = draw_lengths(shape.lengths, batch, SEED)
    try:
        built = build_sides(shape, make_rows(shape, lengths, SEED), setting, wanted)
    except Exception as error:  # whatever a kernel or a model refuses is a finding
        yield case | {"failed": _explain(error)}
        return
    running: dict[str, Side] = {}
    for name, side in built.items():
        try:
            case["sides"][name] = _measure_memory(side, setting, Sizes.of(shape))
            running[name] = side
        except Exception as error:
            case["sides"][name] = {"failed": _explain(error)}
        clear_gradients(side)
    if is_first and len(running) > 1:
        case["agreement"] = {name: asdict(it) for name, it in compare_sides(running).items()}
    clock = wall_clock if plan.tiny else event_clock
    for name, seconds in time_interleaved(running, plan.repetitions, clock).items():
        case["sides"][name] |= {"time": summarise(seconds)}
    yield case
    del built, running
    _free()


def _describe(setting: Setting) -> dict[str, Any]:
    return {"checkpointing": setting.checkpointing, "kernel": setting.kernel}


def _measure_memory(side: Side, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """Returns the most bytes allocated in a step, with and without those before it, and its operations; warms up."""
    profiled = profile_step(side, sizes)
    if setting.device == "cpu":
        return {"flops": profiled.flops, "step_bytes": profiled.peak_bytes}
    for _ in range(WARM_UP - 1):
        time_step(side, event_clock)
    _free()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    time_step(side, event_clock)
    peak = torch.cuda.max_memory_allocated()
    return {"flops": profiled.flops, "peak_bytes": peak, "step_bytes": peak - before}


def _find_largest(plan: Plan, model: str, setting: Setting, side: str) -> int | None:
    """Returns the largest power of two of pairs that fits; None where one is too many."""
    shape, fits, batch = plan.shape(model), None, 1
    while batch <= (2 if plan.tiny else 256):
        lengths = draw_lengths(shape.lengths, batch, SEED)
        with _out_of_memory() as full:
            built = build_sides(shape, make_rows(shape, lengths, SEED), setting, (side,))
            time_step(built[side], wall_clock)
        built = {}
        _free()
        if full:
            break
        fits, batch = batch, 2 * batch
    return fits


@contextmanager
def _out_of_memory() -> Iterator[list[str]]:
    """Yields a list that is not empty afterwards if the GPU's memory did not suffice."""
    found: list[str] = []
    try:
        yield found
    except torch.OutOfMemoryError as error:
        found.append(_explain(error))


def _explain(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure_ceiling(plan: Plan) -> float:
    """Returns the floating-point operations per second of a large square product, the most this machine gives."""
    size, setting = (256, plan.setting) if plan.tiny else (8192, plan.setting)
    left, right = (torch.randn(size, size, device=setting.device, dtype=setting.dtype) for _ in range(2))
    clock = wall_clock if plan.tiny else event_clock
    seconds = [clock(lambda: left @ right) for _ in range(WARM_UP + 20)][WARM_UP:]
    return float(2 * size**3 / summarise(seconds)["median"])


def compute_ratios(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Returns ratios of medians at equal batch: theirs over ours for time, ours over theirs for memory."""
    ratios: dict[str, float] = {}
    plain: dict[tuple[str, int, bool], dict[str, Any]] = {}
    for case in cases:
        if case["kernel"] == "sdpa" and not case.get("largest"):
            key = (case["model"], case["batch"], case["checkpointing"])
            plain[key] = plain.get(key, {}) | {n: s for n, s in case["sides"].items() if "time" in s}
    for (model, batch, checkpointing), found in plain.items():
        name = f"{model}_batch{batch}" + ("_checkpointing" if checkpointing else "")
        for ours, rival, label in ((MDPO, ORIGINAL, "mdpo_vs_original"), (DPO, TRL, "dpo_vs_trl")):
            if ours in found and rival in found:
                mine, theirs = found[ours], found[rival]
                ratios[f"time_ratio.{label}_{name}_warm"] = theirs["time"]["median"] / mine["time"]["median"]
                for kind in ("peak_bytes", "step_bytes"):
                    if kind in mine:
                        ratios[f"memory_ratio.{label}_{name}_{kind.partition('_')[0]}"] = mine[kind] / theirs[kind]
        if MDPO in found and MDPO_PASS in found and ORIGINAL in found:
            spread = found[MDPO]["time"]["median"] + found[MDPO_PASS]["time"]["median"] / EPOCHS
            ratios[f"time_ratio.mdpo_vs_original_{name}_amortised"] = found[ORIGINAL]["time"]["median"] / spread
        without = plain.get((model, batch, False), {})
        if checkpointing and MDPO in without and ORIGINAL in found:
            ratio = found[ORIGINAL]["time"]["median"] / without[MDPO]["time"]["median"]
            ratios[f"time_ratio.mdpo_without_checkpointing_vs_original_with_{model}_batch{batch}_warm"] = ratio
    return ratios


def _line(case: dict[str, Any]) -> str:
    head = f"{case['model']} batch {case['batch']} {case['kernel']}{' checkpointing' * case['checkpointing']}"
    if "failed" in case:
        return f"{head}: {case['failed']}"
    told = {n: f"{s['time']['median']:.3f} s" if "time" in s else s["failed"] for n, s in case["sides"].items()}
    return f"{head}: {told}"


if __name__ == "__main__":
    main()
