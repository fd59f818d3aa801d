"""Judges of the data engine: what they hold of every answer to a prompt. One file each, whose name is the judge's.

Such a module has a docstring, whose first line says what the judge looks at, and

    NEEDS       the column of `Prompt.truth` that it reads, empty for none
    STRIKES     whether its verdicts say which claims, or which answers, are wrong; else they only rank
    WORDS       the texts that it asks a model with, by name; their digest is its version. Empty for one that asks none
    judge(prompt: Prompt, samples: Sequence[Sample], context: Context)
                returns one verdict for each sample, in their order, None where it has none. A judge that asks a model
                is a generator: it yields lists of `Ask`, is sent what their replies were read as, and asks nothing else

    OPTIONS     only where verdicts depend on some: the fields of `Context` that it reads
    NEEDS_RUN   only where it reads `Context.rewards`: True
    NEEDS_PROOF only where labelled answers have to show first that it is a judge: True

All answers to a prompt are judged together, so that a claim which several make is judged once: a verdict that is wrong
is then wrong for all of them alike, and prefers none. Somebody else's judge is `package.module:NAME`: an object or a
module that has these names, or the function `judge` of a module that has the others, such as `mine:judge`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from mmdpo.pairs.prompts import Prompt
from mmdpo.records import ImageSource, RowError
from mmdpo.registry import Registry, is_elsewhere, load_elsewhere
from mmdpo.texts import UNSPACED, split_sentences

JUDGES = Registry("pairs.judges", "judge", further="or package.module:NAME")
PENALTY = 2.0
"""A wrong claim costs so many right ones."""


class Claim(NamedTuple):
    """Something that an answer says."""

    text: str
    is_true: bool
    probability: float | None = None
    """What the judge gives it, where it says more than yes or no."""
    sentence: int | None = None
    """Which sentence of the answer says it, from 0, where that is known."""


class Verdict:
    """What a judge holds of one answer: its claims are counted once, and made of their rows only where they are read.

    `score`: higher is better; compares the answers to one prompt, and is scaled so that 1 is a difference worth having.
    `is_right`: of judges that look at an answer as a whole.
    `rewrite`: the answer as the judge would have it.
    `comparisons`, `inconsistent`: of judges that compare two answers, how many times this one was compared, and in how
    many of them the verdict changed with the order of the two; they count as ties.
    `struck`, `right`: how many claims are held to be wrong, and right; of a whole answer that is judged, it is 1 claim.
    """

    __slots__ = ("_claims", "comparisons", "inconsistent", "is_right", "rewrite", "right", "score", "struck")

    def __init__(
        self,
        score: float,
        claims: Sequence[Claim | Mapping[str, Any]] = (),
        is_right: bool | None = None,
        rewrite: str | None = None,
        comparisons: int = 0,
        inconsistent: int = 0,
    ) -> None:
        """Takes claims, or the rows that `list_claims` has made of them."""
        self.score, self.is_right, self.rewrite = score, is_right, rewrite
        self.comparisons, self.inconsistent = comparisons, inconsistent
        self._claims = claims
        if is_right is None:
            self.right = [of.is_true if isinstance(of, Claim) else of["is_true"] for of in claims].count(True)
            self.struck = len(claims) - self.right
        else:
            self.right, self.struck = int(is_right), int(not is_right)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the answer says, and whether it is held to be true."""
        return tuple([of if isinstance(of, Claim) else Claim(**of) for of in self._claims])

    def row(self) -> dict[str, Any]:
        """Returns the verdict for JSON, without what has its default; `Verdict(**row)` is it again."""
        row: dict[str, Any] = {"score": self.score} | ({"claims": self.list_claims()} if self._claims else {})
        row |= {name: of for name in ("is_right", "rewrite") if (of := getattr(self, name)) is not None}
        return row | {name: of for name in ("comparisons", "inconsistent") if (of := getattr(self, name))}

    def list_claims(self) -> list[dict[str, Any]]:
        """Returns the claims for JSON."""
        rows = [of._asdict() if isinstance(of, Claim) else of for of in self._claims]
        return [
            {name: value for name, value in row.items() if value is not None} if None in row.values() else dict(row)
            for row in rows
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and self.row() == other.row()

    def __repr__(self) -> str:
        return f"Verdict({self.row()})"


@dataclass(frozen=True)
class Reply:
    """What a model said to a judge."""

    text: str
    yes: float | None = None
    """P(yes) / (P(yes) + P(no)) of its first token, where the model says probabilities and either is among them."""
    is_cut: bool = False
    """Whether the limit of tokens ended it. No judge is shown such a reply."""


@dataclass(frozen=True)
class Ask:
    """Something that a judge asks a model, in words and perhaps pictures, and how the reply is read."""

    text: str
    read: Callable[[Reply], Any] = field(compare=False)
    """Returns what the reply says, None where it cannot be read: then it is asked for again."""
    images: tuple[ImageSource, ...] = ()
    is_yes_no: bool = False
    """Whether one token answers it."""


@dataclass(frozen=True)
class Context:
    """What judges know beside one prompt: options, and what was loaded for them."""

    vocabulary: Mapping[str, str] = field(default_factory=dict)
    """Word or phrase, in lower case → the object that it names."""
    agreement: float = 0.75
    """Share of the answers that a claim has to be in to be believed, by `consistency`."""
    threshold: float = 0.5
    """P(yes) from which a claim is held to be true."""
    votes: int = 1
    """How many times, each in other words, a claim is asked about; the mean of P(yes) counts."""
    opponents: int = 2
    """With how many other answers each is compared, in both orders."""
    splits: str = "model"
    """Who splits answers into claims: `model`, or `sentences` for one claim a sentence."""
    seed: int = 0
    rewards: Callable[[Prompt, Sequence[str]], list[float]] | None = None
    """Returns the implicit rewards of answers under a trained run, in nats, for judges that have them."""


Verdicts: TypeAlias = "list[Verdict | None]"
Asking: TypeAlias = "Generator[list[Ask], list[Any], Verdicts]"


def load(name: str) -> Any:
    """Returns a judge's module. Raises ValueError for a name that is none, and for a module that lacks something."""
    if is_elsewhere(name):
        module, found = load_elsewhere(name, JUDGES.kind)
        if getattr(module, "judge", None) is found:
            found = module
    else:
        found = JUDGES.load(name)
    missing = [part for part in ("NEEDS", "STRIKES", "WORDS", "judge") if not hasattr(found, part)]
    if missing:
        what = f"the module of {name}" if found is sys.modules.get(name.partition(":")[0]) else name
        raise ValueError(
            f"{what} is no judge: it has no {' and no '.join(missing)} (mmdpo.pairs.judges says what it needs)"
        )
    return found


def find_objects(text: str, vocabulary: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the objects of a vocabulary that a text names, each once, by first mention; longer phrases come first.

    >>> find_objects("Two dogs on a traffic light.", {"dog": "dog", "light": "lamp", "traffic light": "traffic light"})
    ('dog', 'traffic light')
    >>> find_objects("沙发上有一只狗。", {"狗": "dog", "沙发": "sofa"})
    ('sofa', 'dog')
    """
    if not vocabulary:
        return ()
    found = _pattern(tuple(sorted(vocabulary, key=lambda phrase: (-len(phrase), phrase)))).finditer(text)
    # One that is not in the vocabulary: ſ is no s, though case apart it is one.
    named = (vocabulary.get(str(match[match.lastindex or 0]).lower()) for match in found)
    return tuple(dict.fromkeys(name for name in named if name is not None))


@lru_cache(maxsize=8)
def _pattern(longest_first: tuple[str, ...]) -> re.Pattern[str]:
    plain = [re.escape(phrase) for phrase in longest_first if not re.match(f"[{UNSPACED}]", phrase)]
    unspaced = [re.escape(phrase) for phrase in longest_first if re.match(f"[{UNSPACED}]", phrase)]
    parts = [rf"\b({'|'.join(plain)})(?:s|es)?\b"] if plain else []
    parts += [f"({'|'.join(unspaced)})"] if unspaced else []
    return re.compile("|".join(parts), re.IGNORECASE)


def find_there(prompt: Prompt, vocabulary: Mapping[str, str]) -> set[str]:
    """Returns the objects that are there, by the column `objects`. Raises RowError where that is no list of names."""
    named = prompt.truth["objects"]
    if not isinstance(named, list | tuple):
        raise RowError(f"`objects` is {named!r:.60}: give a list of names", source=prompt.source)
    return {vocabulary.get(str(name).lower(), str(name)) for name in named}


def claim_objects(
    text: str, vocabulary: Mapping[str, str], judge: Callable[[str], tuple[bool, float | None]]
) -> Verdict:
    """Returns the verdict of an answer whose claims are the objects that it names; `judge` says what holds of each."""
    sentences: dict[str, int] = {}
    for place, sentence in enumerate(split_sentences(text)):
        for name in find_objects(sentence, vocabulary):
            sentences.setdefault(name, place)
    return score_claims([Claim(name, *judge(name), place) for name, place in sentences.items()])


def score_claims(claims: Sequence[Claim]) -> Verdict:
    """Returns the verdict of claims: right ones less twice the wrong ones."""
    right = sum(claim.is_true for claim in claims)
    return Verdict(right - PENALTY * (len(claims) - right), tuple(claims))
