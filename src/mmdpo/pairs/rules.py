"""Rules: which two answers to a prompt become a pair. Each yields all that it would take, the best first.

A rule sees answers that can be used and have a verdict. The chosen answer is one that the policy gave having seen the
picture. A rule of this package is an entry of `RULES`; somebody else's is a `Rule` that is named `package.module:NAME`.
Rules that look for answers without a wrong claim count margins in claims, the wrong ones of the rejected
answer less those of the chosen one; the others take the difference of the scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np

from mmdpo.pairs.judges import Verdict
from mmdpo.pairs.samples import Sample
from mmdpo.registry import is_elsewhere, load_elsewhere, name_nearest
from mmdpo.texts import count_words, split_sentences

SAME_LENGTH = 0.1
"""How much longer, at most, the longer of two answers of the same length is."""
Texts: TypeAlias = tuple[str, str]
"""The chosen one and the rejected one."""


class Candidate:
    """An answer with its verdict, and what rules look at again and again: counted once."""

    __slots__ = ("is_clean", "right", "sample", "struck", "verdict", "words")

    def __init__(self, sample: Sample, verdict: Verdict) -> None:
        """Counts words, and claims that are held to be right and wrong (struck)."""
        self.sample, self.verdict = sample, verdict
        self.words = count_words(sample.text)
        self.struck, self.right = verdict.struck, verdict.right
        self.is_clean = not self.struck


class Proposal(NamedTuple):
    """Two answers that may become a pair, and the texts that they have in it."""

    chosen: Candidate
    rejected: Candidate
    margin: float
    is_clean: bool
    """Whether nothing in the chosen text is held to be wrong."""
    own_texts: Texts | None = None
    """The chosen one and the rejected one, where they are not the answers'."""

    @property
    def texts(self) -> Texts:
        """The chosen one and the rejected one."""
        return self.own_texts or (self.chosen.sample.text, self.rejected.sample.text)

    @property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """What is held of the chosen text and of the rejected one: of a start of an answer its claims alone, of another
        text than the answer's nothing."""
        chosen, rejected = map(_judge_text, (self.chosen, self.rejected), self.texts)
        return chosen, rejected

    @property
    def words(self) -> tuple[int, int]:
        """How many words the texts have."""
        if self.own_texts is None:
            return self.chosen.words, self.rejected.words
        return count_words(self.own_texts[0]), count_words(self.own_texts[1])


def _judge_text(answer: Candidate, text: str) -> Verdict:
    whole, verdict = answer.sample.text, answer.verdict
    if text == whole:
        return verdict
    count = len(split_sentences(text)) if whole.startswith(text) else 0
    claims = (claim for claim in verdict.claims if claim.sentence is not None and claim.sentence < count)
    return Verdict(verdict.score, tuple(claims))


Draw: TypeAlias = Callable[[], np.random.Generator]
"""Opens a prompt's generator."""
Propose: TypeAlias = Callable[[Sequence[Candidate], Draw], Iterator[Proposal]]


@dataclass(frozen=True)
class Rule:
    """A rule by what it says of itself."""

    about: str
    needs_strikes: bool
    """Whether it needs a judge that says which claims are wrong, not only one that ranks."""
    propose: Propose
    """Yields the pairs that it would make of answers to one prompt, the best first."""


def clean_near(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields answers without a wrong claim, the most complete first, over those with one, the nearest in length."""
    wrong = sorted(_wrong(candidates), key=lambda each: (-each.struck, each.sample.k))
    for chosen in _by_completeness(candidates):
        words = chosen.words
        for rejected in sorted(wrong, key=lambda each: abs(each.words - words)):
            yield _by_claims(chosen, rejected)


def clean_worst(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields answers without a wrong claim, the most complete first, over those with one, the worst first."""
    worst = sorted(_wrong(candidates), key=lambda each: (each.verdict.score, each.sample.k))
    for chosen, rejected in product(_by_completeness(candidates), worst):
        yield _by_claims(chosen, rejected)


def best_worst(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields all pairs of different scores, the widest margin first."""
    pairs = [_by_score(a, b) for a in _own(candidates) for b in candidates if a.verdict.score > b.verdict.score]
    yield from sorted(pairs, key=lambda pair: (-pair.margin, pair.chosen.sample.k, pair.rejected.sample.k))


def ranked(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields all pairs of different scores, in drawn order."""
    pairs = list(best_worst(candidates, draw))
    yield from (pairs[place] for place in draw().permutation(len(pairs)))


def same_length(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields the pairs of `best_worst` whose answers are of the same length."""
    for pair in best_worst(candidates, draw):
        if max(pair.words) <= (1 + SAME_LENGTH) * min(pair.words):
            yield pair


def correction(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields the judge's rewrites over the answers; the greedy answer first, since that is what users are given."""
    for each in sorted(_wrong(_own(candidates)), key=lambda each: each.sample.k):
        if each.verdict.rewrite is not None:
            yield Proposal(each, each, float(each.struck), True, (each.verdict.rewrite, each.sample.text))


def struck_out(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields answers without what is wrong in them over the answers. It teaches silence: what is right is in both."""
    for each in sorted(_wrong(_own(candidates)), key=lambda each: each.sample.k):
        left = strike_out(each.sample.text, each.verdict)
        if left:
            yield Proposal(each, each, float(each.struck), True, (left, each.sample.text))


def strike_out(text: str, verdict: Verdict) -> str:
    """Returns a text without its wrong claims: without the word, in a list of words, else without the sentence.

    >>> from mmdpo.pairs.judges import Claim
    >>> strike_out("A cup, a dog.", Verdict(0, (Claim("a dog", False, sentence=0),)))
    'A cup.'
    """
    sentences: list[str | None] = list(split_sentences(text))
    for claim in verdict.claims:
        if claim.is_true or claim.sentence is None or claim.sentence >= len(sentences):
            continue
        before = sentences[claim.sentence]
        if before is not None:
            word = re.escape(claim.text)
            listed = rf"\s*,\s*{word}(?=\s*(?:[,.;:!?]|$))|\b{word}\s*,\s*"
            after = re.sub(listed, "", before, count=1, flags=re.IGNORECASE)
            sentences[claim.sentence] = after if after != before else None
    return " ".join(each for each in sentences if each)


def sentence(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields two answers up to the first sentence that differs, where it is right in one and wrong in the other."""
    split = {each.sample.k: split_sentences(each.sample.text) for each in candidates}
    for chosen, rejected in product(_own(candidates), _wrong(candidates)):
        ours, theirs = split[chosen.sample.k], split[rejected.sample.k]
        place = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a.split() != b.split()), None)
        if place is None or _first_wrong(rejected) != place or _first_wrong(chosen) <= place:
            continue
        if any(claim.sentence == place for claim in chosen.verdict.claims):  # a sentence that says nothing is no answer
            ends = ((chosen.sample.text, ours), (rejected.sample.text, theirs))
            up_to = (_find_start(text, sentences[: place + 1]) for text, sentences in ends)
            yield Proposal(chosen, rejected, 1.0, True, (next(up_to), next(up_to)))


def _find_start(text: str, sentences: Sequence[str]) -> str:
    """Returns a text up to the end of its first sentences, as it is written there."""
    end = 0
    for each in sentences:
        end = text.index(each, end) + len(each)
    return text[:end]


def negatives(candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields the best answers over those that were made to be rejected."""
    for chosen in sorted(_own(candidates), key=lambda each: (-each.verdict.score, each.sample.k)):
        for rejected in (each for each in candidates if not each.sample.is_own):
            if chosen.verdict.score > rejected.verdict.score:
                yield _by_score(chosen, rejected)


RULES: Mapping[str, Rule] = {
    "clean_near": Rule(
        "the most complete answer without a wrong claim; the nearest in length with one", True, clean_near
    ),
    "clean_worst": Rule("the most complete answer without a wrong claim; the worst with one", True, clean_worst),
    "best_worst": Rule("the best score; the worst", False, best_worst),
    "ranked": Rule("any two of different scores, drawn by the seed", False, ranked),
    "same_length": Rule("the widest margin among answers of the same length, ± 10 %", False, same_length),
    "correction": Rule("an answer as the judge rewrote it; the answer itself", True, correction),
    "struck_out": Rule("an answer without what is wrong in it; the answer itself", True, struck_out),
    "sentence": Rule("two answers up to their first different sentence, wrong in one", True, sentence),
    "negatives": Rule("the best answer; one that was made to be rejected", False, negatives),
}


def _propose_checked(name: str, propose: Propose, candidates: Sequence[Candidate], draw: Draw) -> Iterator[Proposal]:
    """Yields what somebody else's rule does; raises TypeError for what is no pair."""
    for pair in propose(candidates, draw):
        if not isinstance(pair, Proposal):
            raise TypeError(
                f"the rule {name} yields a {type(pair).__name__}: it has to yield Proposals of mmdpo.pairs.rules"
            )
        yield pair


def load(name: str) -> Rule:
    """Returns a rule by its name, or somebody else's as `package.module:NAME`. Raises ValueError for what is none."""
    if is_elsewhere(name):
        found = load_elsewhere(name, "rule")[1]
        if not isinstance(found, Rule):
            raise ValueError(f"{name} is a {type(found).__name__} and no rule: make it a Rule of mmdpo.pairs.rules")
        return replace(found, propose=partial(_propose_checked, name, found.propose))
    if name not in RULES:
        raise ValueError(
            f"there is no rule {name!r}{name_nearest(name, RULES)} There are {', '.join(RULES)}, or package.module:NAME"
        )
    return RULES[name]


def _own(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [each for each in candidates if each.sample.is_own]


def _wrong(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [each for each in candidates if not each.is_clean]


def _by_completeness(candidates: Sequence[Candidate]) -> list[Candidate]:
    clean = [each for each in _own(candidates) if each.is_clean]
    return sorted(clean, key=lambda each: (-each.right, -each.verdict.score, each.sample.k))


def _by_claims(chosen: Candidate, rejected: Candidate) -> Proposal:
    margin = float(rejected.struck - chosen.struck)
    return Proposal(chosen, rejected, margin, chosen.is_clean)


def _by_score(chosen: Candidate, rejected: Candidate) -> Proposal:
    margin = chosen.verdict.score - rejected.verdict.score
    return Proposal(chosen, rejected, margin, chosen.is_clean)


def _first_wrong(candidate: Candidate) -> float:
    """Returns the first sentence with a wrong claim, from 0; infinity where there is none."""
    places = (claim.sentence for claim in candidate.verdict.claims if not claim.is_true)
    return min((place for place in places if place is not None), default=float("inf"))
