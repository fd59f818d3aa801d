"""The large embedded world: hallucinated objects in captions of scenes that are known exactly.

The measures are those of `mmdpo.world.scenes`; the scenes are those that a study tests on with seed 0.
"""

from mmdpo.benchmarks.tasks._world import LICENCE, TRAPS, WorldBenchmark
from mmdpo.world import LARGE

__all__ = ["GENERATION", "LICENCE", "METRICS", "TRAPS", "draw_image", "find_id", "read_items", "score"]

_BENCHMARK = WorldBenchmark(LARGE)
GENERATION = _BENCHMARK.generation
METRICS = _BENCHMARK.metrics
draw_image = _BENCHMARK.draw_image
find_id = _BENCHMARK.find_id
read_items = _BENCHMARK.read_items
score = _BENCHMARK.score
