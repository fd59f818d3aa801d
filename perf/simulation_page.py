"""The part of the page that tells of simulated steps."""

from __future__ import annotations

from typing import Any

NAMES = {"original": "A", "mdpo_warm": "C, mDPO", "mdpo_live": "C, live", "trl_dpo": "B", "dpo_warm": "C, DPO"}
"""In the order of the table."""
RIVALS = {"mdpo_warm": "original", "dpo_warm": "trl_dpo"}


def render_simulation(results: list[dict[str, Any]]) -> str:
    """Returns the section; the latest result counts."""
    if not results:
        return "Nothing has been simulated. `python -m perf.simulate` does it, and needs no GPU."
    result = max(results, key=lambda it: it["date"])
    gpus = [gpu["name"] for gpu in result["gpus"]]
    head = ["model", "", "side", "pairs", "TFLOP", "theirs / ours", "peak, GB", *(f"{g}, s at least" for g in gpus)]
    rows = [
        _row(case, pairs, counts, result)
        for case in result["cases"]
        for pairs, counts in case["batches"].items()
        if pairs in SHOWN
    ]
    return "\n\n".join(
        [
            _explain(result),
            _table(head, rows),
            "Pairs of the largest micro-batch that fits, optimizer states and "
            f"{result['cuda_bytes'] / 1e9:.0f} GB for CUDA itself counted in; ≈ where it was extrapolated:",
            _table(
                ["model", "", *(f"{NAMES[side]}, {g}" for side in NAMES for g in gpus if side != "mdpo_live")],
                _largest_rows(result, gpus),
            ),
            _tell_estimates(result),
        ]
    )


SHOWN = ("1", "4")


def _explain(result: dict[str, Any]) -> str:
    speeds = "; ".join(
        f"{g['name']} {g['half_flops'] / 1e12:.0f} TFLOP/s in bf16, {g['full_flops'] / 1e12:.0f} in float32, "
        f"{g['bandwidth'] / 1e12:.2f} TB/s"
        for g in result["gpus"]
    )
    versions = result["versions"]
    low, high = result["depths"]
    return (
        f"**Simulated, not measured**: {result['date']}, torch {versions['torch']}, transformers\n"
        f"{versions['transformers']}, trl {versions['trl']}, mmdpo at {versions['mmdpo_commit']};\n"
        "`python -m perf.simulate`. bf16 under autocast, LoRA, one step forward and backward. Operations and memory\n"
        "are counted on tensors that have shapes and no values; models of "
        f"{low} and {high} layers are simulated, with\none or two of each kind in a tower that has windows, and "
        "followed to the whole depth. B has the\noutput head of a GPU, answer positions alone. Seconds are a bound "
        "that no run reaches:\nof each operation the longer of computing "
        f"and of reading and writing what it touches, at the data sheets'\n{speeds}."
    )


def _row(case: dict[str, Any], pairs: str, counts: dict[str, Any], result: dict[str, Any]) -> list[str]:
    how = "checkpointing" if case["checkpointing"] else ""
    ratio = ""
    if (rival := RIVALS.get(case["side"])) is not None:
        for other in result["cases"]:
            same = all(other[key] == case[key] for key in ("model", "checkpointing"))
            if same and other["side"] == rival and pairs in other["batches"]:
                ratio = f"{other['batches'][pairs]['flops'] / counts['flops']:.2f}"
    seconds = [f"{counts['seconds'][gpu['name']]:.3f}" for gpu in result["gpus"]]
    shape = result["shapes"][case["model"]]["name"]
    figures = [f"{counts['flops'] / 1e12:.1f}", ratio, f"{counts['peak_bytes'] / 1e9:.1f}", *seconds]
    return [shape, how, NAMES[case["side"]], pairs, *figures]


def _largest_rows(result: dict[str, Any], gpus: list[str]) -> list[list[str]]:
    found: dict[tuple[str, bool], dict[tuple[str, str], str]] = {}
    for case in result["cases"]:
        cells = found.setdefault((case["model"], case["checkpointing"]), {})
        for gpu, pairs in case.get("largest", {}).items():
            cells[case["side"], gpu] = str(pairs) if str(pairs) in case["batches"] else f"≈ {pairs}"
        if "failed" in case:
            cells |= {(case["side"], gpu): case["failed"].partition(":")[0] for gpu in gpus}
    sides = [side for side in NAMES if side != "mdpo_live"]
    return [
        [result["shapes"][model]["name"], "checkpointing" * how, *(cells.get((s, g), "") for s in sides for g in gpus)]
        for (model, how), cells in found.items()
    ]


def list_estimates(result: dict[str, Any]) -> list[float]:
    """Returns the dry run's estimate over the simulated memory, optimizer states with it, of every step of mDPO."""
    return [
        counts["estimate_bytes"] / (counts["peak_bytes"] + case["optimizer_bytes"])
        for case in result["cases"]
        for counts in case["batches"].values()
        if "estimate_bytes" in counts
    ]


def _tell_estimates(result: dict[str, Any]) -> str:
    ratios = list_estimates(result)
    if not ratios:
        return ""
    return (
        f"The estimate of `mmdpo train --dry_run` is {min(ratios):.2f} to {max(ratios):.2f} times the simulated\n"
        "memory of mDPO's step and its optimizer."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
