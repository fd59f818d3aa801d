"""Embedded world: hallucinated objects in captions of scenes that are known exactly.

The measures are those of `mmdpo.world.scenes`; the scenes are those that a study tests on with seed 0.
"""

from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.world import SMALL

BENCHMARK = WorldBenchmark(SMALL)
