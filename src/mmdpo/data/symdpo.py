"""`mmdpo data symdpo`: SymDPO's pairs from questions about pictures and their answers.

A row shows N demonstrations (picture, question, answer) and asks about a last picture. The demonstrations' answers are
replaced by meaningless words, the same word for the same answer, and one demonstration has the answer of the last
question. So the chosen word can be found only by looking: at the last picture, and at the demonstrations'.

Source: SymDPO (arXiv 2411.11909). Its Figure 2 shows a general form and five with symbols; what it does not say, the
five are in these words: whether demonstrations keep their questions, and what the rejected answer is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.data.columns import ask
from mmdpo.data.images import image_sources
from mmdpo.data.messages import read_answer, read_prompt
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, RowError, derive_generator


@dataclass(frozen=True)
class Form:
    """One of the forms that rows have."""

    is_symbolic: bool
    """Whether answers of demonstrations are symbols."""
    keeps_question: bool
    """Whether demonstrations keep their questions."""
    rejected: str
    """`shown`: another demonstration's word; `unseen`: a word of none; `answer`: a real answer of the same kind."""


FORMS: Mapping[str, Form] = {
    "general": Form(is_symbolic=False, keeps_question=True, rejected="answer"),
    "question_shown": Form(is_symbolic=True, keeps_question=True, rejected="shown"),
    "question_unseen": Form(is_symbolic=True, keeps_question=True, rejected="unseen"),
    "question_answer": Form(is_symbolic=True, keeps_question=True, rejected="answer"),
    "image_shown": Form(is_symbolic=True, keeps_question=False, rejected="shown"),
    "image_answer": Form(is_symbolic=True, keeps_question=False, rejected="answer"),
}
"""By name."""

SHARES: Mapping[str, float] = {"general": 0.3} | {name: 0.14 for name in FORMS if name != "general"}
"""The paper's best: 30 % general rows, 70 % with symbols."""

_CONSONANTS, _VOWELS = "bdfgjklmnprstvz", "aeiou"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Triplet:
    """A question about a picture, and its answer."""

    image: ImageSource
    question: str
    answer: str

    @property
    def key(self) -> str:
        """The answer as it is compared: without case, and without whitespace and a full stop at its ends."""
        return self.answer.strip().rstrip(".").lower()

    @property
    def kind(self) -> str:
        """`yes or no`, `number`, or `words`."""
        if self.key in ("yes", "no"):
            return "yes or no"
        return "number" if self.key.isdecimal() else "words"


def read_triplets(
    rows: Sequence[Mapping[str, Any]],
    *,
    name: str,
    image_root: Path | None = None,
    columns: tuple[str, str, str] = ("image", "question", "answer"),
) -> list[Triplet]:
    """Reads the triplets of rows from their columns for image, question and answer.

    Raises RowError where a column is missing, is no text, or has no image, and names the row.
    """
    triplets = []
    for number, row in enumerate(rows, start=1):
        source = f"{name}, row {number}"
        if not isinstance(row, Mapping):
            raise RowError(f"it is {type(row).__name__} and no row", source=source)
        image, *texts = (row.get(column) for column in columns)
        for column, text in zip(columns[1:], texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise RowError(f"`{column}` is {text!r:.60}: write the text, or name another column", source=source)
        found = image_sources(image, image_root)
        if len(found) != 1:
            raise RowError(f"`{columns[0]}` holds {len(found)} images: a triplet has one", source=source)
        triplets.append(Triplet(found[0], str(texts[0]), str(texts[1])))
    return triplets


def make_rows(
    triplets: Sequence[Triplet],
    count: int,
    *,
    demonstrations: int = 4,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
) -> Iterator[PreferenceExample]:
    """Yields so many pairs; each depends on the triplets, the seed and its number alone.

    Questions are drawn among those whose answer another triplet has, too. Of the demonstrations one has this answer and
    the others answers that differ from it, of the same kind where there are enough.

    Raises ValueError where a share is of no form, none is above 0, there are fewer than two demonstrations, or no
    question can be asked of these triplets.
    """
    check_shares(shares)
    if demonstrations < 2:
        raise ValueError(f"demonstrations: at least 2, one with the answer and one with another; got {demonstrations}")
    by_answer: dict[str, list[int]] = defaultdict(list)
    by_kind: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, triplet in enumerate(triplets):
        by_answer[triplet.key].append(place)
        by_kind[triplet.kind][triplet.key].append(place)
    asked = [
        place
        for place, triplet in enumerate(triplets)
        if len(by_answer[triplet.key]) > 1 and len(by_kind[triplet.kind]) > 1
    ]
    if not asked:
        raise ValueError(
            "no question has an answer that another question has, and a different one of its kind beside it: give more "
            "triplets"
        )
    words = {word.lower() for triplet in triplets for text in (triplet.question, triplet.answer)
             for word in _WORD.findall(text)}  # fmt: skip
    names, total = list(shares), sum(shares.values())
    for number in range(count):
        generator = derive_generator(seed, str(number), "symdpo")
        name = names[generator.choice(len(names), p=[shares[name] / total for name in names])]
        query = triplets[asked[generator.integers(len(asked))]]
        shown = _draw_demonstrations(triplets, query, by_answer, by_kind[query.kind], demonstrations, generator)
        yield _make_row(number, name, query, shown, by_kind[query.kind], triplets, words, generator)


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises ValueError for a share of no form, one below 0, or none above."""
    for name, share in shares.items():
        if name not in FORMS:
            raise ValueError(f"shares: there is no form {name!r}; there are {', '.join(FORMS)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise ValueError(f"shares: {name} is {share!r}: give a number of at least 0")
    if not sum(shares.values()):
        raise ValueError("shares: one form at least needs a share above 0")


def _draw_demonstrations(
    triplets: Sequence[Triplet],
    query: Triplet,
    by_answer: Mapping[str, Sequence[int]],
    same_kind: Mapping[str, Sequence[int]],
    count: int,
    generator: np.random.Generator,
) -> list[Triplet]:
    """Returns demonstrations in a random order: one with the query's answer, the others with other answers."""
    same = [place for place in by_answer[query.key] if triplets[place] is not query]
    others = [place for key, places in same_kind.items() if key != query.key for place in places]
    if len(others) < count - 1:
        others += [place for key, places in by_answer.items() if key not in same_kind for place in places]
    drawn = generator.permutation(others)[: count - 1].tolist()
    places = [same[generator.integers(len(same))], *drawn]
    return [triplets[place] for place in generator.permutation(places)]


def _make_row(
    number: int,
    name: str,
    query: Triplet,
    shown: Sequence[Triplet],
    same_kind: Mapping[str, Sequence[int]],
    triplets: Sequence[Triplet],
    words: set[str],
    generator: np.random.Generator,
) -> PreferenceExample:
    form = FORMS[name]
    answers = {triplet.key: triplet.answer for triplet in shown}
    symbols = dict(zip([*answers, ""], _make_words(len(answers) + 1, words, generator), strict=True))
    said = {key: symbols[key] if form.is_symbolic else answer for key, answer in answers.items()}
    chosen = said[query.key] if form.is_symbolic else query.answer
    if form.rejected == "shown":
        rejected = _choose([word for key, word in said.items() if key != query.key], generator)
    elif form.rejected == "unseen":
        rejected = symbols[""]
    else:
        key = _choose([key for key in same_kind if key != query.key], generator)
        rejected = triplets[same_kind[key][0]].answer
    history = [[triplet.question if form.keeps_question else "", said[triplet.key]] for triplet in shown]
    turns = ask(query.question, history=history)
    for turn in turns:
        if turn["role"] == "user":
            turn["content"] = f"<image>\n{turn['content']}" if turn["content"] else "<image>"
    images = [triplet.image for triplet in (*shown, query)]
    conversation = read_prompt(turns, images, image_root=None, column="prompt")
    return PreferenceExample(
        id=f"symdpo-{number}",
        prompt=conversation.turns,
        responses={
            CHOSEN: read_answer(chosen, column=CHOSEN),
            REJECTED: read_answer(rejected, column=REJECTED),
            "form": read_answer(name, column="form"),
        },
        images=conversation.images,
        source=f"symdpo row {number + 1}",
    )


def _choose(values: Sequence[str], generator: np.random.Generator) -> str:
    return values[int(generator.integers(len(values)))]


def _make_words(count: int, known: set[str], generator: np.random.Generator) -> list[str]:
    """Returns different words of three syllables that nobody has used in a question or an answer."""
    made: dict[str, None] = {}
    while len(made) < count:
        letters = [_choose(part, generator) for _ in range(3) for part in (_CONSONANTS, _VOWELS)]
        word = "".join(letters)
        if word not in known:
            made[word] = None
    return list(made)
