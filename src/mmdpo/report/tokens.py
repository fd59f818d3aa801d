"""Answers whose tokens are coloured by what the image does: log π(token | image) − log π(token | another or none)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmdpo.tables import show_number
from mmdpo.texts import Mark

LEVELS = (0.1, 0.5, 1.0, 2.0)
"""Nats from which a colour is the first, second, … of its side; 2 nats are 7 times as likely."""
SHAPE = {
    "rank": float,
    "answers": {
        str: {
            "text": str, "tokens": [str], "spans": [[float]],
            "policy": {str: [float]}, "reference": {str: [float]},
        },
    },
}  # fmt: skip
"""Of a line of per_token.jsonl."""
IMAGES = {"corrupted": "the corrupted image", "other": "another example's image", "none": "no image"}
"""What the real image is compared with."""
NAMED = 5
"""Tokens that are named below an answer."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer: a token, or those that are bytes of one character."""

    text: str
    value: float | None
    """In nats; above 0 the image makes it likelier. None for text that was not scored."""
    is_mark: bool = False
    """Whether it is no text of the answer: the end of the turn."""

    @property
    def words(self) -> str:
        """The text without the blanks before it, if it has any other."""
        return self.text.lstrip() or self.text

    @property
    def blanks(self) -> str:
        """The blanks before, which are not coloured."""
        return self.text.removesuffix(self.words)

    @property
    def level(self) -> int:
        """Colour: 0 for none, up to 4 for the strongest, negative where the image makes it less likely."""
        size = sum(abs(self.value or 0) >= least for least in LEVELS)
        return -size if (self.value or 0) < 0 else size

    @property
    def css(self) -> str:
        """Classes of the piece."""
        side = "" if not self.level else f" {'up' if self.level > 0 else 'down'}-{abs(self.level)}"
        return f"token{side}{' end' * self.is_mark}"

    @property
    def shown(self) -> str:
        """The value as it is shown, in nats."""
        return "" if self.value is None else show_number(self.value, 2, signed=True)


@dataclass(frozen=True)
class ColouredAnswer:
    """An answer under one comparison of images."""

    label: str
    pieces: tuple[Piece, ...]

    @property
    def total(self) -> str:
        """log π(answer | image) − log π(answer | the other), in nats."""
        return show_number(sum(piece.value or 0.0 for piece in self.pieces), 2, signed=True)

    def note(self) -> str:
        """Says in words which tokens differ most, for readers who do not see the colours."""
        differing = (piece for piece in self.pieces if abs(piece.level) > 1)
        strong = sorted(differing, key=lambda piece: -abs(piece.value or 0))
        said = [f"“{piece.text.strip() or repr(piece.text)}” {piece.shown}" for piece in strong[:NAMED]]
        return f"most: {', '.join(said)}" if said else f"no token differs by {LEVELS[1]} nats"


def split_tokens(
    text: str, tokens: Sequence[str], spans: Sequence[Sequence[float]], values: Sequence[float]
) -> tuple[Piece, ...]:
    """Returns the pieces of an answer, which joined give the text and the marks after it.

    `spans` are start and end of each token in the text, in characters, and empty for marks; `values` are in nats.
    Tokens that share characters are one piece with the sum of their values.
    """
    places = [_place(span, len(text)) for span in spans]
    placed = [(span, token, value) for span, token, value in zip(places, tokens, values, strict=False)]
    pieces, end = list[Piece](), 0
    for (start, stop), members in groupby((of for of in placed if of[0][1] > of[0][0]), key=lambda of: of[0]):
        value, start = sum(value for *_, value in members), max(start, end)
        if start > end:
            pieces.append(Piece(text[end:start], None))
        if stop > start:
            pieces.append(Piece(text[start:stop], value))
            end = stop
        elif pieces:  # it lies in the piece before
            pieces[-1] = Piece(pieces[-1].text, (pieces[-1].value or 0.0) + value)
    if end < len(text):
        pieces.append(Piece(text[end:], None))
    marks = (Piece(token, value, is_mark=True) for (start, stop), token, value in placed if stop <= start)
    return (*pieces, *marks)


def colour_answers(answer: Mapping[str, Any]) -> list[ColouredAnswer]:
    """Returns an answer of per_token.jsonl against every image, of the policy and then of the reference.

    No image comes first, as in the order of pairs. What lacks its own image, or has another number of values than
    tokens, is left out.
    """
    found, tokens, spans = [], answer.get("tokens", ()), answer.get("spans", ())
    for model in ("policy", "reference"):
        logprobs = answer.get(model) or {}
        real = logprobs.get("real", [])
        for image in ("none", "corrupted", "other"):
            values = logprobs.get(image, [])
            if not values or not len(values) == len(real) == len(tokens) == len(spans):
                continue
            differences = [one - other for one, other in zip(real, values, strict=True)]
            pieces = split_tokens(answer.get("text", ""), tokens, spans, differences)
            found.append(ColouredAnswer(f"{model}, against {IMAGES[image]}", pieces))
    return found


def list_colours() -> list[tuple[str, str]]:
    """Returns the classes of the colours with what they stand for, from the least to the most likely."""
    texts = [f"{least:g}" for least in LEVELS]
    down = [(f"token down-{level}", f"−{text}") for level, text in enumerate(texts, start=1)]
    up = [(f"token up-{level}", f"+{text}") for level, text in enumerate(texts, start=1)]
    return [*reversed(down), ("token", "0"), *up]


def _place(span: Sequence[float], length: int) -> Mark:
    """Returns a span inside a text; an empty one for what is none."""
    if len(span) != 2 or not all(0 <= end <= length for end in span):
        return length, length
    return int(span[0]), int(span[1])
