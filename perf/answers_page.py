"""The part of the page that tells what several answers to a prompt cost: the latest result of every machine."""

from __future__ import annotations

from textwrap import fill
from typing import Any

WIDTH = 120


def render_answers(results: list[dict[str, Any]]) -> str:
    """Returns the section, one part per machine."""
    if not results:
        return "Nothing has been measured. `python -m perf.answers` measures it and writes its file."
    return "\n\n".join(map(_render_machine, results))


def _render_machine(result: dict[str, Any]) -> str:
    text, vision = result["shape"]["text"], result["shape"]["vision"]
    sides, target = result["sides"], result["target"]
    one, *_, once = sides.values()
    width, height = result["size"]
    head = (
        f"`python -m perf.answers`, machine `{result['machine']}`, {result['date']}, one thread, transformers "
        f"{result['versions']['transformers']}, mmdpo at {result['versions']['mmdpo_commit']}: {result['prompts']} "
        f"questions about photographs of {width} × {height}, one answer to each or {result['answers']}, of about "
        f"{once['tokens']['median']:.0f} tokens, `--batch_size {result['batch_size']}`; a random LLaVA of Llama "
        f"{text['num_hidden_layers']} × {text['hidden_size']} (vocabulary {text['vocab_size']}) and CLIP "
        f"{vision['num_hidden_layers']} × {vision['hidden_size']}, "
        f"{(vision['image_size'] // vision['patch_size']) ** 2} tokens a picture, float32. Medians of "
        f"{one['wall']['repetitions']} repetitions in turn; the load average was {result['load_before']:.1f} before "
        f"and {result['load_after']:.1f} after: where it was above one, CPU seconds say more than wall seconds."
    )
    table = ["| answers to each prompt | CPU, s | wall, s | CPU, against one answer |", "|---|---:|---:|---:|"]
    for name, figures in sides.items():
        cpu = figures["cpu"]["median"]
        times = cpu / one["cpu"]["median"]
        table.append(f"| {name} | {cpu:.1f} | {figures['wall']['median']:.1f} | {times:.2f} |")
    reached = once["cpu"]["median"] / one["cpu"]["median"]
    met = "met" if reached <= target else "**missed**"
    foot = [
        f"Target: {result['answers']} answers cost at most {target} times one; {reached:.2f}, {met}.",
        f"Expected beforehand: {result['expected']}.",
    ]
    return "\n".join([fill(head, WIDTH), "", *table, "", *(fill(line, WIDTH) for line in foot)])
