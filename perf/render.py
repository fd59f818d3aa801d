"""Writes docs/performance.md: `python -m perf.render`. Prose is in performance.md.in, figures are in results/."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.answers_page import render_answers
from perf.gpu_page import render_gpu
from perf.loader_page import render_loader
from perf.operators_page import render_operators
from perf.pairs_page import render_pairs
from perf.pictures_page import render_pictures
from perf.record import RESULTS, ROOT
from perf.simulation_page import render_simulation
from perf.start_page import render_start

PAGE = ROOT / "docs" / "performance.md"
TEMPLATE = Path(__file__).parent / "performance.md.in"

TARGETS = (
    ("DPO against B, body, warm", "time_ratio.dpo_vs_trl", 3.0),
    ("mDPO against A, body, warm", "time_ratio.mdpo_vs_original_body_warm", 2.2),
    ("mDPO against A, body, amortised", "time_ratio.mdpo_vs_original_body_amortised", 2.0),
    ("mDPO against A′, body, warm", "time_ratio.mdpo_vs_original_with_answer_only_head_body_warm", 2.1),
    ("mDPO against A, brief, warm", "time_ratio.mdpo_vs_original_brief_warm", 3.4),
    ("mDPO against A, brief, amortised", "time_ratio.mdpo_vs_original_brief_amortised", 3.0),
    ("memory of mDPO against A, body", "memory_ratio.mdpo_vs_original_body", 0.65),
    ("memory of mDPO against A, brief", "memory_ratio.mdpo_vs_original_brief", 0.25),
)
"""What is meant to be reached: time at least, memory at most."""
FURTHER = (
    ("mDPO against A, body, live", "time_ratio.mdpo_vs_original_body_live"),
    ("mDPO against A, brief, live", "time_ratio.mdpo_vs_original_brief_live"),
    ("mDPO against A′, brief, warm", "time_ratio.mdpo_vs_original_with_answer_only_head_brief_warm"),
    ("memory of mDPO against A′, body", "memory_ratio.mdpo_vs_original_with_answer_only_head_body"),
    ("memory of mDPO against A′, brief", "memory_ratio.mdpo_vs_original_with_answer_only_head_brief"),
    ("DPO against B, body, amortised", "time_ratio.dpo_vs_trl_body_amortised"),
    ("DPO against B, body, live", "time_ratio.dpo_vs_trl_body_live"),
    ("DPO, warm, against B with references given, body", "time_ratio.dpo_vs_trl_references_given_body_warm"),
    ("DPO against B, brief, warm", "time_ratio.dpo_vs_trl_brief_warm"),
    ("memory of DPO against B, body", "memory_ratio.dpo_vs_trl_body"),
)
"""What has no target and belongs beside it."""

NAMES = {
    "original": "A",
    "original_answer_only_head": "A′",
    "mdpo_warm": "C, mDPO, warm",
    "mdpo_live": "C, mDPO, live",
    "mdpo_reference_pass": "reference pass of mDPO",
    "trl_dpo": "B",
    "trl_dpo_references_given": "B, references given",
    "dpo_warm": "C, DPO, warm",
    "dpo_live": "C, DPO, live",
    "dpo_reference_pass": "reference pass of DPO",
}


SECTIONS: Mapping[str, Callable[[list[dict[str, Any]]], str]] = {
    "gpu": render_gpu,
    "operators": render_operators,
    "loader": render_loader,
    "pictures": render_pictures,
    "answers": render_answers,
    "pairs": render_pairs,
    "simulation": render_simulation,
}
"""Kind of a result → what tells the latest one of every machine."""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(RESULTS))
    print(f"written to {PAGE}")


def render(folder: Path) -> str:
    """Returns the page that the results in a folder make.

    The CPU's part is of the latest result; of every other kind each machine has its latest; tries in miniature are no
    results.
    Raises ValueError without a CPU's.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    results = sorted((result for result in found if not result["miniature"]), key=lambda result: result["date"])
    latest: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        latest.setdefault(_kind(result), {})[result["machine"]] = result
    on_cpu = [result for result in results if _kind(result) == "cpu"]
    if not on_cpu:
        raise ValueError(f"{folder} holds no result of a CPU; run `make perf`")
    values = fill(on_cpu[-1])
    for kind, render_section in SECTIONS.items():
        values[f"section.{kind}"] = render_section(list(latest.get(kind, {}).values()))
    first_steps = list(latest.get("first_step", {}).values())
    values["section.start"] = render_start(list(latest.get("start", {}).values()), first_steps)
    return re.sub(r"\{\{(.+?)\}\}", lambda found: values[found[1]], TEMPLATE.read_text())


def _kind(result: dict[str, Any]) -> str:
    """Returns what was measured: training steps on a CPU or a GPU, or what the result says."""
    return str(result.get("kind") or ("cpu" if result["device"] == "cpu" else "gpu"))


def fill(result: dict[str, Any]) -> dict[str, str]:
    """Returns what stands for every name in the template."""
    measured = result["sides"]
    agreements = [s["agreement"] for sides in measured.values() for s in sides.values() if "agreement" in s]
    changed = " with changes that were not committed" * result["versions"]["mmdpo_differs_from_commit"]
    return {
        **{name: str(result[name]) for name in ("machine", "date", "threads", "repetitions", "epochs")},
        **{f"versions.{name}": str(value) for name, value in result["versions"].items()},
        "commit": f"{result['versions']['mmdpo_commit']}{changed}",
        "pairs": str(len(result["lengths"]["body"])),
        "agreement.loss": f"{max(it['loss_difference'] for it in agreements):.0e}",
        "agreement.gradient": f"{max(it['gradient_difference'] for it in agreements):.0e}",
        "table.shapes": _table_shapes(result),
        "table.targets": _table_targets(result),
        "table.sides": _table_sides(measured),
        "table.flops": _table_flops(result),
        "table.parts": _table_parts(measured),
        "table.growth": _table_growth(result["growth"]),
        "paragraph.unpaid": _tell_unpaid(measured),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _table_shapes(result: dict[str, Any]) -> str:
    rows = []
    for name, shape in result["shapes"].items():
        text, vision, lengths = shape["text"], shape["vision"], shape["lengths"]
        image = (vision["image_size"] // vision["patch_size"]) ** 2
        sizes = f"{text['num_hidden_layers']} × {text['hidden_size']}, inner {text['intermediate_size']}"
        tower = f"{vision['num_hidden_layers']} × {vision['hidden_size']}, {image} tokens"
        spans = [f"{low} to {high}" for low, high in (lengths["prompt"], lengths["answer"])]
        rows.append([name, sizes, str(text["vocab_size"]), tower, str(shape["lora_rank"]), *spans])
    head = ["shape", "Llama", "vocabulary", "CLIP", "LoRA rank", "prompt tokens", "answer tokens"]
    return table(head, rows)


def _table_targets(result: dict[str, Any]) -> str:
    rows = []
    for label, key, target in TARGETS:
        is_memory = key.startswith("memory")
        met = result[key] <= target if is_memory else result[key] >= target
        bound = "at most" if is_memory else "at least"
        rows.append([label, f"{bound} {target:.2f}", f"{result[key]:.2f}", "met" if met else "**missed**"])
    rows += [[label, "", f"{result[key]:.2f}", ""] for label, key in FURTHER]
    return table(["", "target", "measured", ""], rows)


def _table_sides(measured: dict[str, dict[str, Any]]) -> str:
    rows = []
    for shape, sides in measured.items():
        for name, side in sides.items():
            time = side["time"]
            quartiles = f"{time['lower_quartile']:.2f} to {time['upper_quartile']:.2f}"
            extremes = f"{time['min']:.2f} to {time['max']:.2f}"
            megabytes = f"{side['peak_bytes'] / 1e6:.0f}"
            rows.append([shape, NAMES[name], f"{time['median']:.2f}", quartiles, extremes, megabytes])
    return table(["shape", "side", "s / step", "quartiles", "least to most", "memory, MB"], rows)


def _table_flops(result: dict[str, Any]) -> str:
    rows = []
    for shape, sides in result["sides"].items():
        for ours, rival, key in (("mdpo_warm", "original", "mdpo_vs_original"), ("dpo_warm", "trl_dpo", "dpo_vs_trl")):
            counts = [sum(sides[name]["flops"].values()) for name in (rival, ours)]
            speeds = [n / sides[name]["time"]["median"] / 1e9 for n, name in zip(counts, (rival, ours), strict=True)]
            ratios = [result[f"{kind}_ratio.{key}_{shape}_warm"] for kind in ("flop", "time")]
            figures = [f"{count / 1e9:.0f}" for count in counts] + [f"{ratio:.2f}" for ratio in ratios]
            figures += [f"{speed:.0f}" for speed in speeds]
            rows.append([shape, f"{NAMES[ours]}, against {NAMES[rival]}", *figures])
    head = ["shape", "", "theirs, GFLOP", "ours, GFLOP", "ratio of operations", "ratio of time"]
    return table([*head, "theirs, GFLOP/s", "ours, GFLOP/s"], rows)


def _table_parts(measured: dict[str, dict[str, Any]]) -> str:
    parts = list(measured["body"]["original"]["seconds"])
    rows = []
    for shape, sides in measured.items():
        for name in ("original", "mdpo_warm", "trl_dpo", "dpo_warm"):
            seconds = sides[name]["seconds"]
            whole = sum(seconds.values())
            rows.append([shape, NAMES[name], *(f"{100 * seconds[part] / whole:.0f} %" for part in parts)])
    return table(["shape", "side", *parts], rows)


def _table_growth(growth: list[dict[str, Any]]) -> str:
    rows = []
    for case in growth:
        theirs, ours = (case["time"][name]["median"] for name in ("original", "mdpo_warm"))
        sizes = [str(case[name]) for name in ("pairs", "prompt", "answer")]
        rows.append([*sizes, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / case['pairs']:.2f}", f"{theirs / ours:.2f}"])
    head = ["pairs", "prompt tokens", "tokens of each answer", "A, s", "C, mDPO, warm, s", "C, s / pair", "A / C"]
    return table(head, rows)


def _tell_unpaid(measured: dict[str, dict[str, Any]]) -> str:
    """Says what an output head at answer positions alone gives, the one technique that A′ isolates."""
    told = []
    for shape, sides in measured.items():
        whole, alone = sides["original"], sides["original_answer_only_head"]
        faster = whole["time"]["median"] / alone["time"]["median"]
        memory = alone["peak_bytes"] / whole["peak_bytes"]
        told.append(f"{faster:.2f} times A's speed and {memory:.2f} of its memory on *{shape}*")
    return f"An output head at answer positions alone gives {', and '.join(told)}: it pays where the head is large."


if __name__ == "__main__":
    main()
