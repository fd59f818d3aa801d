"""Sorts the objects that a study's models named wrongly: `python docs/studies/mistakes.py runs/prior-world_large`.

Prints, by variant, each kind's share of all mentions in per cent; the kinds add up to CHAIR_i over all seeds together.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from mmdpo.world import WORLDS, World
from mmdpo.world.scenes import compare_names, draw_test_scenes


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


def main(study: Path) -> None:
    """Prints one line for each variant."""
    counts: dict[str, Counter[str]] = {}
    for file in sorted(study.glob("trials/*/seed-*/*/answers.jsonl")):
        world, seed = WORLDS[file.parent.name], int(file.parts[-3].removeprefix("seed-"))
        answers = [json.loads(line)["answer"] for line in file.open(encoding="utf-8")]
        count = counts.setdefault(file.parts[-4], Counter())
        for scene, answer in zip(draw_test_scenes(len(answers), seed, world=world), answers, strict=True):
            found = compare_names(world, scene.names, answer)
            count["mentions"] += len(found.mentioned)
            count.update(name_mistake(world, scene.names, name) for name in found.hallucinated)
    for variant, count in counts.items():
        mentions = count.pop("mentions")
        print(f"{variant}: " + ", ".join(f"{kind} {100 * n / mentions:.1f}" for kind, n in sorted(count.items())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
