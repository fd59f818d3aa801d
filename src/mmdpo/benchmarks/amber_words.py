"""AMBER's generative rule: which nouns of a description are kept, flagged, or cover what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore
from mmdpo.benchmarks.linguistics import Linguistics
from mmdpo.benchmarks.similarity import Similarity


@dataclass(frozen=True)
class AmberWords:
    """AMBER's word lists."""

    associated: Mapping[str, Sequence[str]]
    """Word → the words that also stand for it."""
    vocabulary: frozenset[str]
    """The only nouns that are looked at."""
    plural_only: frozenset[str]
    """Singulars of words that the vocabulary holds as plurals, which a lemmatised noun therefore never equals."""
    safe: frozenset[str]
    """Words that are kept and never flagged."""

    @classmethod
    def build(cls, associated: Mapping[str, Sequence[str]], safe: Sequence[str]) -> AmberWords:
        """Builds the lists from the contents of relation.json and safe_words.txt."""
        vocabulary = frozenset(associated).union(*associated.values())
        singulars = {word[:length] for word in vocabulary for length in (-1, -2) if word.endswith("s")}
        return cls(associated, vocabulary, frozenset(singulars - vocabulary), frozenset(safe))


@dataclass(frozen=True)
class _Targets:
    """Words of an image in the order in which the official code looks through them, and what each stands for."""

    words: tuple[str, ...]
    target_of: tuple[int, ...]

    @classmethod
    def build(cls, targets: Sequence[str], associated: Mapping[str, Sequence[str]]) -> _Targets:
        """Puts the associated words of every target first, then the targets themselves."""
        pairs = [(word, index) for index, target in enumerate(targets) for word in associated[target]]
        pairs += [(target, index) for index, target in enumerate(targets)]
        return cls(tuple(word for word, _ in pairs), tuple(index for _, index in pairs))

    def find_equal(self, noun: str) -> int | None:
        """Returns the target of the first word that equals the noun."""
        return self.target_of[self.words.index(noun)] if noun in self.words else None

    def find_similar(self, noun: str, similarity: Similarity) -> int | None:
        """Returns the target of the first word that is similar to the noun."""
        for word, target in zip(self.words, self.target_of, strict=True):
            if similarity.similar(noun, word):
                return target
        return None


def score_description(
    item: BenchmarkItem, answer: str, words: AmberWords, linguistics: Linguistics, similarity: Similarity
) -> ItemScore:
    """Scores one description; steps (a) to (f) of the official rule, for each noun in order, repeats included."""
    all_nouns = linguistics.nouns(answer)
    nouns = [noun for noun in all_nouns if noun in words.vocabulary]
    truth, hallu = item.truth["truth"], item.truth["hallu"]
    there, expected = (_Targets.build(targets, words.associated) for targets in (truth, hallu))
    covered: set[int] = set()
    cognitive: set[int] = set()
    flagged = []
    for noun in nouns:
        if noun in words.safe:
            continue
        if (target := there.find_equal(noun)) is not None:
            covered.add(target)
            continue
        found = (expected.find_equal(noun), expected.find_similar(noun, similarity))
        cognitive |= {target for target in found if target is not None}
        if (target := there.find_similar(noun, similarity)) is not None:
            covered.add(target)
        else:
            flagged.append(noun)
    counts = {"n": 1, "kept": len(nouns), "flagged": len(flagged), "unflagged": not flagged}
    counts |= {"covered": len(covered), "truth": len(truth), "cognitive": len(cognitive), "hallu": len(hallu)}
    unseen = [noun for noun in all_nouns if noun not in words.vocabulary]
    traps = {
        "capitalised_noun": sum(1 for noun in unseen if noun.lower() in words.vocabulary),
        "never_matched_noun": sum(1 for noun in unseen if noun in words.plural_only),
    }
    return ItemScore(
        counts={f"generative/{name}": float(count) for name, count in counts.items()},
        reason={
            "kept": nouns,
            "flagged": flagged,
            "covered": [truth[index] for index in sorted(covered)],
            "cognitive": [hallu[index] for index in sorted(cognitive)],
        },
        traps={name: count for name, count in traps.items() if count},
    )
