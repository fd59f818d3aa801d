"""COCO classes named by words, through a table of synonyms: the rule of CHAIR in the version of Object HalBench.

Source: Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018; refined in Yu et al., RLHF-V, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mmdpo.benchmarks.linguistics import Linguistics

_ANIMALS: Final = (
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "animal",
    "cub",
)
_NO_OBJECTS: Final = ("home plate", "train track")
"""Pairs that are merged so that neither word counts."""
_LLM_LEMMAS: Final = {"scissors": "scissor"}
"""What spaCy, which the official LLM mode lemmatises with, does to a word and WordNet does not."""


@dataclass(frozen=True)
class Mention:
    """One word of an answer that names a class."""

    word: str
    coco_class: str


@dataclass(frozen=True)
class CocoObjects:
    """The synonyms of COCO's classes."""

    class_of: dict[str, str]
    """Synonym → class; a synonym that several lines name belongs to the last."""
    pairs: dict[str, str]
    """Two words that count as one → what they are replaced by."""

    @classmethod
    def build(cls, lines: Sequence[str]) -> CocoObjects:
        """Builds the table from lines of synonyms, the class first, separated by commas."""
        rows = [[word.strip() for word in line.split(",")] for line in lines if line.strip()]
        class_of = {word: row[0] for row in rows for word in row}
        pairs = {word: word for word in (*class_of, *_NO_OBJECTS) if " " in word}
        pairs |= {f"{age} {animal}": animal for animal in _ANIMALS for age in ("baby", "adult")}
        pairs |= {"passenger jet": "jet", "passenger train": "train"}
        pairs |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
        return cls(class_of, pairs)

    def mentions(self, text: str, linguistics: Linguistics) -> list[Mention]:
        """Returns the mentions of a text in order, repeats included: word mode."""
        return self._name_classes(self._merge(linguistics.lemmas(text.lower())))

    def listed_mentions(self, phrases: Sequence[str], linguistics: Linguistics) -> list[Mention]:
        """Returns the distinct mentions among phrases that name one object each: LLM mode."""
        words = [word for phrase in phrases for word in self._words_of_phrase(phrase, linguistics)]
        return self._name_classes(list(dict.fromkeys(words)))

    def _words_of_phrase(self, phrase: str, linguistics: Linguistics) -> list[str]:
        sentence = f"a {phrase}"  # the article lets a tagger see a noun
        lemmas = [_LLM_LEMMAS.get(lemma, lemma) for lemma in linguistics.lemmas(sentence)]
        pairs = self._merge(lemmas, pairs_only=True)
        runs = [
            " ".join(_LLM_LEMMAS.get(word, word) for word in run.split()) for run in linguistics.noun_runs(sentence)
        ]
        return pairs or runs

    def _merge(self, words: Sequence[str], *, pairs_only: bool = False) -> list[str]:
        """Replaces two-word synonyms from left to right, each word used once."""
        merged = []
        index = 0
        while index < len(words):
            pair = self.pairs.get(" ".join(words[index : index + 2]))
            if pair is not None:
                merged.append(pair)
            elif not pairs_only:
                merged.append(words[index])
            index += 1 if pair is None else 2
        return merged

    def _name_classes(self, words: Sequence[str]) -> list[Mention]:
        dropped = "seat" if "toilet" in words else ""  # the seat of a toilet is no chair
        return [Mention(word, self.class_of[word]) for word in words if word in self.class_of and word != dropped]
