"""The records of generation: a question, how it is answered, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mmdpo.records import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

LazyImage: TypeAlias = "ImageSource | Callable[[], Image]"
"""A picture before it is opened, or a function that draws it: a benchmark of pictures that are no files has those."""


@dataclass(frozen=True)
class Question:
    """One thing that a model is asked, about a picture or, without one, by words alone."""

    id: str
    prompt: str
    image: LazyImage | None = None


@dataclass(frozen=True)
class GenerationSettings:
    """How an answer is generated. The defaults are greedy decoding. Raises ValueError for a setting that is none."""

    max_new_tokens: int = 512
    num_beams: int = 1
    temperature: float = 0.0
    """0 takes the most probable token; above it tokens are sampled."""
    top_p: float = 1.0
    seed: int = 0
    """Of sampling."""
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or above; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share of probability, above 0 and at most 1; got {self.top_p}")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError("beams are searched, not sampled: give num_beams 1 or temperature 0")
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError("top_p takes part in sampling alone: give a temperature above 0 too")


@dataclass(frozen=True)
class GeneratedAnswer:
    """What a model said to a question."""

    id: str
    text: str
    """Without special tokens, stripped of white space at its ends."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a server said of it: the model's name, why it stopped."""


def _nothing_to_wait_for() -> None:
    return


@dataclass(frozen=True)
class Processes:
    """The processes that answer together, each a share of the questions."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = _nothing_to_wait_for
    """Returns when all processes have called it."""


class Answerer(Protocol):
    """A model behind one of the ways to ask it. It is made in no time: what is heavy is loaded by `answer`."""

    @property
    def processes(self) -> Processes:
        """This process among those that answer."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Returns what the answers depend on besides the settings: model, adapter, precision, versions."""
        ...

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers as they are finished, in whatever order that is."""
        ...


def list_versions(*packages: str) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
