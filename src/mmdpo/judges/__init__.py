"""Judges: language models that read answers. One file each, whose name is the judge's public name (`--judge NAME`).

A judge is a module with a docstring, whose first line says what it asks, and this name:

    make_source(options: JudgeOptions) -> Source
                raises ValueError for options that it lacks, ImportError for a package that is not installed

It answers requests and knows nothing of benchmarks; keeping replies, asking again and giving up are the business of
`mmdpo.evaluation.judging`. Files that start with an underscore are not judges. Replies that were recorded before need
no model: `mmdpo.benchmarks.recorded_replies.RecordedReplies`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from mmdpo.options import Options, option
from mmdpo.registry import Registry

if TYPE_CHECKING:
    from mmdpo.generation.endpoint import Reply

RETRY_TEMPERATURE = 0.7
"""Of every attempt after the first, which is made because the first reply could not be read."""
JUDGES = Registry("judges", "judge")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """judge: a language model that rates answers, for benchmarks that ask one"""

    PREFIX: ClassVar[str] = "judge_"

    replies: Path | None = option(None, "Read recorded replies from this file instead of asking a model.")
    model: str = option("", "The model's name on the server; else a local folder or a hub name.")
    url: str | None = option(None, "Address of an OpenAI-compatible endpoint; OPENAI_API_KEY is its key.")
    kind: str | None = option(
        None,
        "What asks the judge: an endpoint, or a model loaded here.",
        choices=JUDGES.names(),
        flag="judge",
        unset="endpoint with --judge_url, else local",
    )
    cache: Path | None = option(None, "Keep and reuse replies in this folder.", unset="--out")
    retries: int = option(2, "Ask so often again for a reply that can be read.", least=0)
    temperature: float = option(0.0, "Temperature of first attempts; 0 is greedy.")
    max_new_tokens: int = option(1024, "Limit of tokens of a reply.", least=1)
    concurrency: int = option(8, "Endpoint: how many requests are sent at once.", least=1)
    timeout: float = option(120.0, "Endpoint: seconds for one try, from start to end.")
    tries: int = option(7, "Endpoint: tries after which a request has failed.", least=1)
    batch_size: int = option(8, "Local: how many prompts are read at once.", least=1)

    @property
    def is_given(self) -> bool:
        """Whether there is a judge."""
        return self.replies is not None or bool(self.model)

    def settings(self, attempt: int) -> dict[str, Any]:
        """Returns all that a reply depends on besides prompt and model; attempts after the first are sampled."""
        first = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        if attempt == 0:
            return first
        return first | {"temperature": max(RETRY_TEMPERATURE, self.temperature), "seed": attempt}


@dataclass(frozen=True)
class Request:
    """One prompt to a judge; `attempt` is 0, or which further attempt at a readable reply it is."""

    item_id: str
    answer: str
    prompt: str
    attempt: int


@dataclass(frozen=True)
class Failure:
    """A request that got no reply."""

    problem: str
    kind: Literal["refused", "failed", "stopped"]
    """`refused`: this request alone; `failed`: the judge may be down; `stopped`: no other request would do better."""


Keep: TypeAlias = "Callable[[Request, Reply], None]"
Fail: TypeAlias = Callable[[Request, Failure], None]


class Source(Protocol):
    """Where replies come from: the model and the settings of the options."""

    def complete(self, requests: Sequence[Request], keep: Keep, fail: Fail) -> None:
        """Asks all; hands over each reply as soon as it is there, from any thread, and each failure from this one.

        `fail` raises to end it: what is on its way is still handed over, nothing more is asked.
        """
        ...


def make_source(name: str, options: JudgeOptions) -> Source:
    """Returns the judge of that name; raises ValueError for an unknown one, and what its own maker raises."""
    source: Source = JUDGES.load(name).make_source(options)
    return source
