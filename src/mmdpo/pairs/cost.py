"""What a run costs: tokens and price from what is on disk, seconds as measured, and what is left by proportion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmdpo.files import read_json, write_json
from mmdpo.generation.endpoint import Budget, BudgetSpentError
from mmdpo.generation.questions import Answerer, GeneratedAnswer, GenerationSettings, Processes, Question
from mmdpo.line_file import mend_last_line
from mmdpo.pairs.asking import Prices
from mmdpo.pairs.samples import SAMPLES, list_parts

COST = "cost.json"
CHECK_REPLIES = "check-{}.jsonl"
"""What a judge's model replied to `check-judge`: apart, since it says nothing of what the run's own prompts cost."""

_FREE = Prices()
_TOKENS = re.compile(rb'"(prompt_tokens|tokens)": (\d+)')
"""In a line of answers or replies: within a text, a quotation mark has a backslash before it."""


@dataclass
class Spent:
    """What one step has used so far. Every token counts, those of replies that could not be read too."""

    requests: int = 0
    read: int = 0
    """Tokens of prompts."""
    written: int = 0
    """Tokens of answers and replies."""
    price: float = 0.0
    seconds: float = 0.0


@dataclass
class Ledger:
    """What the steps of a run have used."""

    folder: Path
    prices: Mapping[str, Prices]
    budget: float | None = None
    steps: dict[str, Spent] = field(default_factory=dict)

    @classmethod
    def read(
        cls, folder: Path, prices: Mapping[str, Prices], budget: float | None, models: Mapping[str, str]
    ) -> Ledger:
        """Counts what is on disk. `models` names the model of every step."""
        ledger = cls(folder, prices, budget)
        for step, model in models.items():
            for read, written in _count(folder, step):
                ledger.add(step, model, read, written)
        path = folder / COST
        for step, of in (read_json(path)["steps"] if path.is_file() else {}).items():
            ledger.steps.setdefault(step, Spent()).seconds = float(of["seconds"])
        return ledger

    @property
    def total(self) -> float:
        """What all steps cost."""
        return sum(spent.price for spent in self.steps.values())

    def check(self) -> None:
        """Raises BudgetSpentError where nothing is left."""
        if self.budget is not None and self.total >= self.budget:
            raise BudgetSpentError(f"the budget of {self.budget:g} is spent ({self.total:.2f})")

    def add(self, step: str, model: str, read: int, written: int) -> None:
        """Counts one request."""
        spent = self.steps.setdefault(step, Spent())
        spent.requests += 1
        spent.read += read
        spent.written += written
        spent.price += self.prices.get(model, _FREE).of(read, written)

    def watch(self, answerer: Answerer) -> Answerer:
        """Returns a model that is asked no more, BudgetSpentError, once the budget is spent.

        What is on its way by then is still answered and counts: at an endpoint as many requests as are sent at once,
        else all that is asked together.
        """
        if self.budget is None:
            return answerer
        endpoint = getattr(answerer, "endpoint", None)
        if endpoint is None:
            return _Watched(answerer, self)
        endpoint.budget = _Priced(endpoint.budget.max_requests, endpoint.budget.max_tokens, ledger=self)
        return answerer

    def write(self) -> None:
        """Writes cost.json."""
        steps = {step: asdict(spent) for step, spent in self.steps.items()}
        write_json(self.folder / COST, {"steps": steps, "price": self.total, "budget": self.budget})


@dataclass
class _Priced(Budget):
    """The limits of an endpoint, and the budget of the run."""

    ledger: Ledger | None = None

    def take_request(self) -> None:
        if self.ledger is not None:
            self.ledger.check()
        super().take_request()


@dataclass(frozen=True)
class _Watched:
    """A model that asks first whether anything is left to spend."""

    answerer: Answerer
    ledger: Ledger

    @property
    def processes(self) -> Processes:
        return self.answerer.processes

    def describe(self) -> Mapping[str, Any]:
        return self.answerer.describe()

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        self.ledger.check()
        yield from self.answerer.answer(questions, settings)


def _count(folder: Path, step: str) -> Iterator[tuple[int, int]]:
    """Yields the tokens that each request of a step read and wrote."""
    kind, _, label = step.partition(" ")
    replies = CHECK_REPLIES if kind == "check" else "replies-{}.jsonl"
    paths = list_parts(folder, SAMPLES) if step == "sample" else [folder / replies.format(label)]
    for path in filter(Path.is_file, paths):
        mend_last_line(path)
        with path.open("rb") as file:
            for line in file:
                found = dict(_TOKENS.findall(line))
                yield int(found.get(b"prompt_tokens", 0)), int(found.get(b"tokens", 0))


@dataclass(frozen=True)
class Estimate:
    """What is left of a step: what was used so far, in proportion."""

    step: str
    done: int
    """Prompts."""
    left: int
    spent: Spent
    share: float | None = None
    """What is left as a share of what was done; None where nothing was."""

    @property
    def is_known(self) -> bool:
        """Whether anything was done that the rest can be estimated by."""
        return self.share is not None or not self.left

    def scale(self, value: float) -> float:
        """Returns what is left of something that was used."""
        return value * (self.share or 0.0)

    def row(self) -> dict[str, Any]:
        """Returns the estimate of the rest, for tables."""
        names = ("requests", "read", "written", "price", "seconds")
        return {name: self.scale(getattr(self.spent, name)) if self.is_known else None for name in names}
