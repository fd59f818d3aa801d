"""Judges: language models that read answers. One file each, whose name is the judge's public name (`--judge NAME`).

A judge is a module with a docstring, whose first line says what it asks, and this name:

    make_source(options: JudgeOptions) -> Source
                raises ValueError for options that it lacks, ImportError for a package that is not installed

It answers requests and knows nothing of benchmarks; keeping replies, asking again and giving up are the business of
`mmdpo.evaluation.judging`. Files that start with an underscore are not judges. Replies that were recorded before need
no model: `mmdpo.benchmarks.replies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mmdpo.registry import Registry

if TYPE_CHECKING:
    from mmdpo.generation.endpoint import Reply

RETRY_TEMPERATURE = 0.7
"""Of every attempt after the first, which is made because the first reply could not be read."""


@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is asked."""

    model: str
    """A name that the server knows, or of a local checkpoint: a folder or a hub name."""
    url: str | None = None
    temperature: float = 0.0
    """Of the first attempt."""
    max_new_tokens: int = 1024
    concurrency: int = 8
    """Requests on their way at once."""
    batch_size: int = 8
    """Prompts that a local model reads at once."""
    timeout: float = 120.0
    """Seconds for one try of one request."""
    tries: int = 7
    """Of one request, before the judge counts as having failed."""

    def settings(self, attempt: int) -> dict[str, Any]:
        """Returns the settings of an attempt; further ones are sampled, each with a seed of its own."""
        first = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        if attempt == 0:
            return first
        return first | {"temperature": max(RETRY_TEMPERATURE, self.temperature), "seed": attempt}


@dataclass(frozen=True)
class Request:
    """One prompt to a judge."""

    item_id: str
    answer: str
    prompt: str
    attempt: int
    """0, or which further attempt at a readable reply it is."""


@dataclass(frozen=True)
class Failure:
    """A request that got no reply."""

    problem: str
    kind: Literal["refused", "failed", "stopped"]
    """`refused`: this request alone; `failed`: the judge may be down; `stopped`: no other request would do better."""


Keep: TypeAlias = "Callable[[Request, Reply], None]"
Fail: TypeAlias = Callable[[Request, Failure], None]


class Source(Protocol):
    """Where replies come from."""

    @property
    def model(self) -> str:
        """The model that is asked for."""
        ...

    def settings(self, attempt: int) -> Mapping[str, Any]:
        """Returns all that a reply depends on besides prompt and model, as JSON; attempts after the first differ."""
        ...

    def complete(self, requests: Sequence[Request], keep: Keep, fail: Fail) -> None:
        """Asks all; hands over each reply as soon as it is there, from any thread, and each failure from this one.

        `fail` raises to end it: what is on its way is still handed over, nothing more is asked.
        """
        ...


JUDGES = Registry("judges", "judge")


def names() -> tuple[str, ...]:
    """Returns the names of the judges of this folder, sorted, without importing them."""
    return JUDGES.names()


def make_source(name: str, options: JudgeOptions) -> Source:
    """Returns the judge of that name; raises ValueError for an unknown one, and what its own maker raises."""
    source: Source = JUDGES.load(name).make_source(options)
    return source
