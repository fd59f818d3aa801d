"""Pairs of similar words: a table says what its model says."""

import json

import pytest

from benchmark_data import official_data
from mmdpo.benchmarks.similarity import PairTable, SpacySimilarity, load_spacy, write_pair_table


class Word:
    def __init__(self, angle):
        self.angle = angle

    def similarity(self, other):
        return 1 - abs(self.angle - other.angle)


ANGLES = {"dog": 0.0, "puppy": 0.1, "wolf": 0.2, "car": 0.9}


def test_a_table_stands_in_for_its_model(tmp_path):
    """Strictly above the threshold: dog and wolf are at 0.8 and stay apart."""
    model = SpacySimilarity(lambda word: Word(ANGLES[word]), "a model")
    assert write_pair_table(ANGLES, tmp_path / "pairs.json", model) == 2
    table = PairTable.read(tmp_path / "pairs.json")
    assert table.name == "pair table of a model"
    for first in ANGLES:
        for second in ANGLES:
            assert table.similar(first, second) == model.similar(first, second)
    assert table.similar("puppy", "dog")
    assert not table.similar("wolf", "dog")
    assert table.similar("never seen", "never seen")


def test_the_golden_table_is_read():
    table = PairTable.read(official_data() / "golden" / "amber_similar_pairs_md.json")
    assert table.similar("deer", "antelope")
    assert not table.similar("deer", "car")
    assert "en_core_web_md" in table.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"pairs\.json: no table of similar pairs"),
        ('{"pairs": []}', "no table of similar pairs"),
        (json.dumps({"model": "m", "threshold": 0.7, "pairs": []}), "made for a threshold of 0.7"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        PairTable.read(tmp_path / "pairs.json")


def test_a_missing_model_is_named_with_the_ways_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(ImportError, match=r"en_core_web_lg.*download amber.*--similar_pairs.*--similarity exact"):
        load_spacy()
