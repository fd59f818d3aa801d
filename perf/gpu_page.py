"""The part of the page that tells of GPUs: whatever was measured, and nothing else."""

from __future__ import annotations

from typing import Any

SIDES = (
    ("original", "A"),
    ("original_answer_only_head", "A′"),
    ("mdpo_warm", "C, mDPO"),
    ("mdpo_live", "C, live"),
    ("trl_dpo", "B"),
    ("dpo_warm", "C, DPO"),
)


def render_gpu(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per kind of GPU."""
    if not results:
        return "None has been measured. Where one is at hand, `python -m perf.gpu` measures it and writes its file."
    return "\n\n".join(_render_machine(result) for result in results)


def _render_machine(result: dict[str, Any]) -> str:
    ceiling = result["matmul_flops_per_second"]
    torch, steps = result["versions"]["torch"], result["repetitions"]
    left_out = "" if result["trl_measured"] else " TRL was not installed there, so B is missing."
    lines = [
        f"### {result['machine']}, {result['date']}",
        f"bf16, random weights, LoRA; torch {torch}; medians of {steps} steps, timed by events. The largest product\n"
        f"measured ran at {ceiling / 1e12:.0f} TFLOP/s.{left_out}",
    ]
    rows = ["| model | batch | | " + " | ".join(name for _, name in SIDES) + " | utilisation |", "|---" * 10 + "|"]
    rows += [_render_case(case, result) for case in result["cases"]]
    return "\n\n".join([*lines, "\n".join(rows), _explain_cells(), _list_ratios(result)])


def _render_case(case: dict[str, Any], result: dict[str, Any]) -> str:
    how = [case["kernel"], *(["checkpointing"] * case["checkpointing"]), *(["largest"] * case.get("largest", False))]
    cells = [_cell(case["sides"].get(side), case) for side, _ in SIDES]
    ours = case["sides"].get("mdpo_warm", {})
    used = ""
    # A checkpointed step repeats operations, and a compiled kernel hides them: neither count is the model's.
    if "time" in ours and case["kernel"] == "sdpa" and not case["checkpointing"]:
        rate = sum(ours["flops"].values()) / ours["time"]["median"]
        used = f"{100 * rate / result['matmul_flops_per_second']:.0f} %"
    return "| " + " | ".join([case["model"], str(case["batch"]), ", ".join(how), *cells, used]) + " |"


def _cell(side: dict[str, Any] | None, case: dict[str, Any]) -> str:
    if side is None:
        return case["failed"].partition(":")[0] if "failed" in case else ""
    if "failed" in side:
        return str(side["failed"].partition(":")[0])
    memory = side.get("peak_bytes", side.get("step_bytes", 0)) / 1e9
    return f"{side['time']['median']:.3f} s, {memory:.1f} GB"


def _explain_cells() -> str:
    return (
        "Seconds of a step and the most memory allocated, weights included; the name of the error where a side could\n"
        "not run. Utilisation is the operations of C's step for mDPO over its time and over the product's rate."
    )


def _list_ratios(result: dict[str, Any]) -> str:
    rows = [f"| `{key}` | {value:.2f} |" for key, value in result.items() if "_ratio." in key]
    return "\n".join(["| ratio | |", "|---|---|", *rows])
