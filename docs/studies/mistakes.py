"""Sorts the objects that a study's models named wrongly: `python docs/studies/mistakes.py runs/why_crop [OUT]`.

Prints, by variant, each kind's share of all mentions in per cent; the kinds add up to CHAIR_i over all seeds together.
With OUT, a name without an ending, they are drawn and kept too: OUT.png and OUT.json.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from mmdpo.report.figures import write_figure
from mmdpo.world import WORLDS, World
from mmdpo.world.scenes import compare_names, draw_test_scenes

KINDS = {
    "a partner without its anchor": "#d55e00",
    "a partner beside its anchor": "#e69f00",
    "a partner for its twin": "#cc79a7",
    "a twin for its partner": "#009e73",
    "a twin": "#56b4e9",
    "an anchor": "#0072b2",
}


def name_mistake(world: World, present: tuple[str, ...], named: str) -> str:
    """Returns the kind of an object that is named and not there."""
    pair = next(pair for pair in world.pairs if named in pair.members)
    if named == pair.anchor:
        return "an anchor"
    if named == pair.partner:
        if pair.twin in present:
            return "a partner for its twin"
        return "a partner beside its anchor" if pair.anchor in present else "a partner without its anchor"
    return "a twin for its partner" if pair.partner in present else "a twin"


def count_mistakes(study: Path) -> dict[str, dict[str, float]]:
    """Returns by variant, in the study's order, each kind's share of all mentions in per cent."""
    counts: dict[str, Counter[str]] = {}
    for file in sorted(study.glob("trials/*/seed-*/*/answers.jsonl")):
        world, seed = WORLDS[file.parent.name], int(file.parts[-3].removeprefix("seed-"))
        answers = [json.loads(line)["answer"] for line in file.open(encoding="utf-8")]
        count = counts.setdefault(file.parts[-4], Counter())
        for scene, answer in zip(draw_test_scenes(len(answers), seed, world=world), answers, strict=True):
            found = compare_names(world, scene.names, answer)
            count["mentions"] += len(found.mentioned)
            count.update(name_mistake(world, scene.names, name) for name in found.hallucinated)
    order = [name for name in json.loads((study / "results.json").read_text())["variants"] if name in counts]
    return {
        name: {kind: 100 * counts[name][kind] / counts[name]["mentions"] for kind in KINDS if counts[name][kind]}
        for name in order
    }


def draw(shares: dict[str, dict[str, float]]) -> Figure:
    """Draws a bar for each variant, of its kinds of mistakes."""
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    starts = [0.0] * len(shares)
    for kind, colour in KINDS.items():
        lengths = [of.get(kind, 0.0) for of in shares.values()]
        if any(lengths):
            axes.barh(list(shares), lengths, left=starts, color=colour, label=kind, height=0.7)
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("named and not there, % of all mentions (CHAIR_i)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def main(study: Path, out: Path | None) -> None:
    """Prints one line for each variant."""
    shares = count_mistakes(study)
    for variant, of in shares.items():
        print(f"{variant}: " + ", ".join(f"{kind} {share:.1f}" for kind, share in of.items()))
    if out is not None:
        out.with_suffix(".json").write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")
        write_figure(lambda: draw(shares), out.with_suffix(".png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
