"""What the embedded worlds have in common as benchmarks: hallucinated objects in captions of scenes known exactly.

The measures are those of `mmdpo.world.scenes`; the scenes are those that a study tests on with seed 0. A word that a
caption repeats counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from PIL import Image

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, ItemScore, Metric, Sums, Tools, Values
from mmdpo.benchmarks.reading import EvaluationError, Row
from mmdpo.world import PROMPT, World
from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, Scene, compare_names, render, sample_scenes

SCENES: Final = 400
SEED: Final = 0


def _ratio(part: str, whole: str) -> Callable[[Sums], Values]:
    """Per cent; 0 where there is no denominator, as `mmdpo.world.scenes` has it."""

    def compute(sums: Sums) -> Values:
        return 100 * np.divide(sums[part], sums[whole], out=np.zeros_like(sums[part]), where=sums[whole] > 0)

    return compute


@dataclass(frozen=True)
class WorldBenchmark:
    """One world as a benchmark, with the names that a module of a benchmark has."""

    world: World
    licence: ClassVar[str] = "made by this project"
    traps: ClassVar[Mapping[str, str]] = {"no_mention": "captions that name no object"}

    @property
    def generation(self) -> dict[str, Any]:
        """How captions are generated."""
        return {"max_new_tokens": self.world.max_words}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The measures, under the world's name."""
        name = self.world.name
        return (
            Metric(f"{name}/chair_i", _ratio("hallucinated", "mentions"), ("n",), "lower", "%", 2),
            Metric(f"{name}/chair_s", _ratio("hallucinating", "n"), ("n",), "lower", "%", 2),
            Metric(f"{name}/cover", _ratio("correct", "present"), ("n",), "higher", "%", 2),
            Metric(f"{name}/cog", _ratio("cognitive", "mentions"), ("n",), "lower", "%", 2),
        )

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """The scenes of this benchmark, in order."""
        return tuple(sample_scenes(SCENES, SEED, BALANCED_CO_OCCURRENCE, "test", self.world))

    def draw_image(self, item: BenchmarkItem) -> Image.Image:
        """Paints the scene of an item."""
        return render(self.scenes[int(item.id.rpartition("-")[2])])

    def read_items(self, data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
        """Draws the 400 scenes; no data is read. Ids are `test-0-0` onwards."""
        tools.used["ground_truth"] = f"{SCENES} scenes of seed {SEED}"
        return make_items(self.scenes, SEED)

    def find_id(self, row: Row, items: BenchmarkItems) -> str:
        """Returns the row's `id`; raises EvaluationError if it has none."""
        if "id" not in row.values:
            raise EvaluationError(f"no id; it has {', '.join(row.values)}, and ids look like test-{SEED}-17")
        return str(row.values["id"])

    def score(self, item: BenchmarkItem, answer: str) -> ItemScore:
        """Counts what a caption names, rightly and wrongly."""
        present = item.truth["objects"]
        found = compare_names(self.world, present, answer)
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


def make_items(scenes: Sequence[Scene], seed: int) -> tuple[BenchmarkItem, ...]:
    """Returns scenes as items, whose ids are `test-SEED-NUMBER`."""
    return tuple(
        BenchmarkItem(f"test-{seed}-{place}", "all", PROMPT, f"test-{seed}-{place}.png", {"objects": scene.names})
        for place, scene in enumerate(scenes)
    )
