"""The embedded world: hallucinated objects in captions of scenes that are known exactly.

The measures are those of `mmdpo.world.evaluate`; the scenes are those that `mmdpo quickstart` tests on with seed 0. A
word that a caption repeats counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from mmdpo.benchmarks.answers import Row
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.records import Item, Items, ItemScore, Metric, Sums, Tools, Values
from mmdpo.world.captions import MAX_WORDS, PROMPT, compare_names
from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, Scene, render, sample_scenes

LICENCE = "made by this project"
GENERATION: Mapping[str, Any] = {"max_new_tokens": MAX_WORDS}
SCENES: Final = 400
SEED: Final = 0
TRAPS: Mapping[str, str] = {"no_mention": "captions that name no object"}


def _ratio(part: str, whole: str) -> Callable[[Sums], Values]:
    """Per cent; 0 where there is no denominator, as `mmdpo.world.evaluate` has it."""

    def compute(sums: Sums) -> Values:
        return 100 * np.divide(sums[part], sums[whole], out=np.zeros_like(sums[part]), where=sums[whole] > 0)

    return compute


METRICS = (
    Metric("world/chair_i", _ratio("hallucinated", "mentions"), ("n",), "lower", "%", 2),
    Metric("world/chair_s", _ratio("hallucinating", "n"), ("n",), "lower", "%", 2),
    Metric("world/cover", _ratio("correct", "present"), ("n",), "higher", "%", 2),
    Metric("world/cog", _ratio("cognitive", "mentions"), ("n",), "lower", "%", 2),
)


@cache
def draw_scenes() -> tuple[Scene, ...]:
    """Draws the scenes of this benchmark, in order."""
    return tuple(sample_scenes(SCENES, SEED, BALANCED_CO_OCCURRENCE, "test"))


def draw_image(item: Item) -> Image.Image:
    """Paints the scene of an item."""
    return render(draw_scenes()[int(item.id.rpartition("-")[2])])


def read_items(data_dir: Path, tools: Tools) -> tuple[Item, ...]:
    """Draws the 400 scenes; no data is read. Ids are `test-0-0` onwards."""
    tools.used["ground_truth"] = f"{SCENES} scenes of seed {SEED}"
    return tuple(
        Item(f"test-{SEED}-{index}", "all", PROMPT, f"test-{SEED}-{index}.png", {"objects": scene.names})
        for index, scene in enumerate(draw_scenes())
    )


def find_id(row: Row, items: Items) -> str:
    """Returns the row's `id`; raises EvaluationError if it has none."""
    if "id" not in row.values:
        raise EvaluationError(f"no id; it has {', '.join(row.values)}, and ids look like test-{SEED}-17")
    return str(row.values["id"])


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[Item, str], ItemScore]:
    """Returns the exact rule; it needs neither data nor tools."""
    return _score


def _score(item: Item, answer: str) -> ItemScore:
    present = item.truth["objects"]
    found = compare_names(present, answer)
    counts = {
        "n": 1,
        "mentions": len(found.mentioned),
        "hallucinated": len(found.hallucinated),
        "hallucinating": len(found.hallucinated) > 0,
        "cognitive": len(found.cognitive),
        "correct": len(found.correct),
        "present": len(present),
    }
    return ItemScore(
        counts={name: float(count) for name, count in counts.items()},
        reason={"kept": list(found.mentioned), "flagged": list(found.hallucinated)},
        traps={} if found.mentioned else {"no_mention": 1},
    )
