"""Measures how long whole benchmarks take to score: `python -m perf.scoring --data_dir FOLDER`.

The commands are timed as whole processes, in turn: synthetic answers over the real items, bootstrap and writing
included. FOLDER holds the benchmarks' own data, as `mmdpo eval download` fetches it; `nltk_data` and a table of similar
pairs beside it are taken where they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.definitions import Tools
from mmdpo.benchmarks.evaluate import find_data
from mmdpo.benchmarks.linguistics import TableLinguistics
from mmdpo.benchmarks.similarity import PairTable
from mmdpo.benchmarks.tasks import load
from perf.command import time_in_turn, time_mmdpo

WORDS = 160
"""Of a description."""
BENCHMARKS = ("amber", "object_halbench", "pope")


def main() -> None:
    """Measures, and prints the median seconds of each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the benchmarks' data")
    parser.add_argument("--similar_pairs", type=Path, help="AMBER's similar words, where spaCy is not installed")
    parser.add_argument("--repetitions", type=int, default=5, help="of every measurement")
    given = parser.parse_args()
    options = ["--data_dir", str(given.data_dir)]
    options += ["--similar_pairs", str(given.similar_pairs)] if given.similar_pairs else []
    with tempfile.TemporaryDirectory() as folder:
        commands = {}
        for name in BENCHMARKS:
            answers = Path(folder) / f"{name}.jsonl"
            rows = list(make_answers(name, given.data_dir))
            answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            out = Path(folder) / name
            commands[f"{name}, {len(rows):,} answers"] = [name, "--answers", str(answers), "--out", str(out), *options]
        turns = {title: partial(time_mmdpo, "eval", *words) for title, words in commands.items()}
        times = time_in_turn(turns, given.repetitions, warm_up=1)  # the first fills caches
    for title, of in times.items():
        print(f"{title}: {of['wall']['median']:.2f} s wall, {of['cpu']['median']:.2f} s of CPU")
    print(f"load average: {os.getloadavg()[0]:.1f}")


def make_answers(name: str, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """Yields an answer to every item, drawn from a seed: descriptions of `WORDS` words, else yes or no."""
    draw = random.Random(0)
    tools = Tools(TableLinguistics, lambda: PairTable((), "none"))
    items = load(name).read_items(find_data(name, data_dir), tools)
    nouns = sorted({word for item in items for key in ("hallu", "objects") for word in item.truth.get(key, ())})
    for item in items:
        sentences = (f"There is a {draw.choice(nouns)} near the {draw.choice(nouns)}." for _ in range(WORDS // 8))
        answer = " ".join(sentences) if item.part in ("generative", "all") else draw.choice(("Yes", "No"))
        yield {"id": item.id, "answer": answer}


if __name__ == "__main__":
    main()
