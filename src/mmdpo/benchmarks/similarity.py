"""Which words AMBER takes for the same thing: cosine of en_core_web_lg's vectors above 0.8, strictly.

AMBER only ever compares words of its own list of 418, so a table of the pairs above the threshold stands in for the
model wherever spaCy and its 400 MB of vectors are not at hand. `mmdpo eval download amber` makes one of the model's
file (`mmdpo.benchmarks.word_vectors`), `write_pair_table` of a model that is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from mmdpo.benchmarks.definitions import Named
from mmdpo.files import parse_json

THRESHOLD = 0.8
OFFICIAL_MODEL = "en_core_web_lg"
PAIRS = "similar_pairs.json"
"""Name of a table of pairs beside a benchmark's data, which stands in where the model is not installed."""


class Cosines(Named, Protocol):
    """A model that says how alike two words are."""

    def cosine(self, first: str, second: str) -> float:
        """Returns the cosine of two words' vectors."""
        ...


class PairTable:
    """Similar words by a table of pairs."""

    def __init__(self, pairs: Iterable[tuple[str, str]], name: str) -> None:
        """Takes the pairs above the threshold in either order, and what made them."""
        self.name = name
        self._pairs = frozenset(pair for first, second in pairs for pair in ((first, second), (second, first)))

    @classmethod
    def read(cls, path: str | Path) -> PairTable:
        """Reads `{"model", "threshold", "pairs": [[word, word, cosine], …]}`; raises ValueError for anything else."""
        try:
            table = parse_json(Path(path).read_bytes())
            model, threshold = str(table["model"]), float(table["threshold"])
            pairs = [(str(first), str(second)) for first, second, *_ in table["pairs"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path}: no table of similar pairs ({error}); it should be {{"model": …, "threshold": {THRESHOLD}, '
                f'"pairs": [[word, word, cosine], …]}}, as write_pair_table makes it'
            ) from error
        if threshold != THRESHOLD:
            raise ValueError(f"{path}: made for a threshold of {threshold}; AMBER's is {THRESHOLD}")
        return cls(pairs, f"pair table of {model}")

    def similar(self, first: str, second: str) -> bool:
        """Returns whether the two stand in the table, or are the same word."""
        return first == second or (first, second) in self._pairs


class SpacySimilarity:
    """Similar words by the vectors of a spaCy model; every pair is asked for once."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self.name = name
        read = cache(pipeline)
        self.cosine = cache(lambda first, second: float(read(first).similarity(read(second))))
        """What the model gives to two words, 0 for a word without a vector."""

    def similar(self, first: str, second: str) -> bool:
        """Returns whether the cosine of the two is above the threshold."""
        return first == second or self.cosine(first, second) > THRESHOLD


def load_spacy(model: str = OFFICIAL_MODEL) -> SpacySimilarity:
    """Loads a spaCy model; raises ImportError if spaCy or the model is not installed."""
    try:
        spacy: Any = import_module("spacy")
        pipeline = spacy.load(model)
    except (ImportError, OSError) as error:  # spaCy reports a missing model as an OSError
        raise ImportError(
            f"AMBER's descriptions need the word vectors of {model}: `mmdpo eval download amber` makes a table of them "
            "where the data is (400 MB are fetched, once); or `pip install spacy && python -m spacy download "
            f"{model}`, or name a table (--similar_pairs FILE). --similarity exact counts equal words alone, which is "
            "not the official rule"
        ) from error
    version = pipeline.meta.get("version", "")
    return SpacySimilarity(pipeline, f"spaCy {model} {version}".strip())


def make_pair_table(words: Iterable[str], model: Cosines) -> dict[str, Any]:
    """Returns the pairs of `words` above the threshold under a model, as `PairTable.read` reads them."""
    cosines = ((first, second, model.cosine(first, second)) for first, second in combinations(sorted(words), 2))
    pairs = [[first, second, round(cosine, 4)] for first, second, cosine in cosines if cosine > THRESHOLD]
    return {"model": model.name, "threshold": THRESHOLD, "pairs": pairs}


def write_pair_table(words: Iterable[str], path: str | Path, model: Cosines) -> int:
    """Writes a table of pairs to `path`, for machines without the model; returns how many there are."""
    table = make_pair_table(words, model)
    Path(path).write_text(json.dumps(table, indent=1), encoding="utf-8")
    return len(table["pairs"])
