"""What judges ask a model, and its replies: each asked once, kept on disk before the next one is waited for.

A reply is found again by who was asked and what, so that a judging which was interrupted, or is repeated with other
options, pays for nothing twice. A request that failed is never kept as a reply.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.tolerant import take_off_thoughts
from mmdpo.files import digest_of
from mmdpo.generation.endpoint import RefusedError
from mmdpo.generation.questions import Answerer, GeneratedAnswer, GenerationSettings, Question, describe_source
from mmdpo.judges import RETRY_TEMPERATURE
from mmdpo.line_file import LineFile, read_lines
from mmdpo.pairs.judges import Ask, Reply
from mmdpo.pairs.prompts import sha256_image
from mmdpo.records import ImageSource

logger = logging.getLogger(__name__)

LOOKED_AT = 20
"""First tokens among which yes and no are looked for."""
MOST_UNREADABLE = 0.05
LEAST_ASKED = 40
"""Requests before their share of unreadable replies is judged."""
REMINDER = "\n\nKeep to the form that was asked for."


class JudgeError(ValueError):
    """A judge that cannot be used."""


@dataclass(frozen=True)
class Prices:
    """What a model costs, for a million tokens."""

    read: float = 0.0
    written: float = 0.0

    def of(self, read: int, written: int) -> float:
        """Returns the price of so many tokens."""
        return (self.read * read + self.written * written) / 1e6


class Asker:
    """A model that judges ask, with the file that keeps its replies."""

    def __init__(
        self,
        answerer: Answerer,
        path: Path,
        *,
        max_new_tokens: int = 1024,
        retries: int = 2,
        on_reply: Callable[[int, int], None] = lambda read, written: None,
    ) -> None:
        """Takes the model's replies that `path` keeps. `on_reply` hears how many tokens each new one read and wrote."""
        self._answerer, self._limit, self._retries, self._on_reply = answerer, max_new_tokens, retries, on_reply
        self._model = digest_of(describe_source(answerer))
        self._file = LineFile(path)
        self._kept: dict[str, Reply] = {}
        for row in read_lines(path) if path.is_file() else ():
            self._kept[row["key"]] = Reply(row["reply"], row.get("yes"), row.get("is_cut", False))
        self.asked = self.unreadable = self.refused = 0
        self._digests: dict[int, tuple[ImageSource, str]] = {}

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        """Returns what the reply to each was read as, None where it was refused or cannot be read.

        Raises:
            JudgeError: too many replies cannot be read.
            BudgetSpentError: there is nothing left to spend. What was on its way by then is kept.
            OSError: the model cannot be reached. Whatever was replied before is kept.
        """
        self._digests.clear()  # pictures of those before are not held
        values: dict[str, Any] = {}
        distinct = {self._key(each, 0): each for each in asks}
        waiting = dict(distinct)
        for attempt in range(self._retries + 1):
            self._get(waiting, attempt)
            left = {}
            for key, each in waiting.items():
                reply = self._kept.get(self._key(each, attempt))
                if reply is None:  # refused
                    continue
                values[key] = _read(each, reply)
                if values[key] is None:
                    left[key] = each
            waiting = left
        unreadable = [key for key, value in values.items() if value is None]
        self.asked += len(distinct)
        self.unreadable += len(unreadable)
        self.refused += len(distinct) - len(values)
        if self.asked >= LEAST_ASKED and self.unreadable > MOST_UNREADABLE * self.asked:
            examples = [self._kept[key].text for key in unreadable]
            said = f" One said {examples[0]!r:.200}." if examples else ""
            if any(self._kept[key].is_cut for key in unreadable):
                said += f" Some were cut off at {self._limit:,} tokens."
            raise JudgeError(
                f"{self.unreadable:,} of {self.asked:,} replies of the judge cannot be read, more than "
                f"{MOST_UNREADABLE:.0%}.{said} Take a model that keeps to a form, or look at its chat template; what "
                f"was replied is kept in {self._file.path}"
            )
        return [values.get(self._key(each, 0)) for each in asks]

    def close(self) -> None:
        """Ends writing."""
        self._file.close()

    def _get(self, asks: Mapping[str, Ask], attempt: int) -> None:
        """Gets the replies that are not kept yet; those that need one token, and those that need many, together."""
        for is_yes_no in (True, False):
            open_ = {
                key: each
                for each in asks.values()
                if each.is_yes_no == is_yes_no and (key := self._key(each, attempt)) not in self._kept
            }
            if not open_:
                continue
            settings = self._settings(attempt, is_yes_no=is_yes_no)
            reminder = REMINDER if attempt else ""
            questions = [Question(key, each.text + reminder, each.images or None) for key, each in open_.items()]
            self._file.open()  # before a reply is paid for
            try:
                for answer in self._answerer.answer(questions, settings):
                    self._keep(answer, is_yes_no=is_yes_no)
            except RefusedError as error:  # of some of them; the others were answered
                if not self.refused:
                    logger.warning("%s", error)

    def _keep(self, answer: GeneratedAnswer, *, is_yes_no: bool) -> None:
        details = answer.details
        is_cut = not is_yes_no and details.get("finish_reason") == "length"
        reply = Reply(answer.text, read_yes_share(details.get("top_logprobs")), is_cut)
        read, written = (int(details.get(name) or 0) for name in ("prompt_tokens", "tokens"))
        row = {"key": answer.id, "reply": reply.text, "yes": reply.yes, "prompt_tokens": read, "tokens": written}
        row |= {"is_cut": True} if is_cut else {}
        self._file.append({name: value for name, value in row.items() if value is not None})
        self._kept[answer.id] = reply
        self._on_reply(read, written)

    def _settings(self, attempt: int, *, is_yes_no: bool) -> GenerationSettings:
        first = GenerationSettings(max_new_tokens=self._limit)
        if is_yes_no:
            first = replace(first, max_new_tokens=1, top_logprobs=LOOKED_AT)
        return first if attempt == 0 else replace(first, temperature=RETRY_TEMPERATURE, seed=attempt)

    def _key(self, each: Ask, attempt: int) -> str:
        limit = 1 if each.is_yes_no else self._limit
        images = list(map(self._digest, each.images))
        return digest_of([self._model, each.text, images, each.is_yes_no, limit, attempt])[:32]

    def _digest(self, image: ImageSource) -> str:
        """Returns the digest of a picture; each that is open is read once."""
        known = self._digests.get(id(image))
        if known is None or known[0] is not image:
            known = self._digests[id(image)] = (image, sha256_image(image))
        return known[1]


def _read(each: Ask, reply: Reply) -> Any:
    """Returns what a reply is read as, without what the model thought first; None for one that was cut off."""
    if reply.is_cut:  # it would be read as if that were all: fewer statements, or half a text
        return None
    return each.read(reply if each.is_yes_no else replace(reply, text=take_off_thoughts(reply.text)))


def read_yes_share(logprobs: Any) -> float | None:
    """Returns P(yes) / (P(yes) + P(no)) from log π of first tokens; None where neither is among them.

    >>> round(read_yes_share({"Yes": math.log(0.6), " yes": math.log(0.1), "No": math.log(0.3)}), 6)
    0.7
    """
    shares = {"yes": 0.0, "no": 0.0}
    for token, logprob in logprobs.items() if isinstance(logprobs, Mapping) else ():
        word = str(token).strip(" \t\n▁Ġ.,\"'").lower()
        if word in shares:
            shares[word] += math.exp(logprob)
    total = sum(shares.values())
    return shares["yes"] / total if total else None
