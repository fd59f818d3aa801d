"""A question, how it is answered, and the answer; and the one place where a question becomes chat turns.

A question becomes the same turns whatever answers it: perhaps a system prompt, then the picture, then the words. A
model that is loaded here reads them through its own chat template, as in training; a server gets the same turns with
the picture inside them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from PIL import Image

from mmdpo.data.images import open_image
from mmdpo.records import ImageSource, Message, PreferenceExample, RowError

if TYPE_CHECKING:
    from mmdpo.data.tokenise import Renderer

_MENDED: Final = "leave --system_prompt out if there is one, or give another template with --chat_template"
_EXIF_ORIENTATION: Final = 0x0112
_SENT_AS_THEY_ARE: Final = {"JPEG": "image/jpeg", "PNG": "image/png"}
"""Formats that every server reads; pictures in others are sent as PNG, which loses nothing."""

LazyImage: TypeAlias = "ImageSource | Callable[[], Image.Image]"
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
    """What a model said to a question: stripped, without special tokens; `details` say why it stopped, for instance."""

    id: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Processes:
    """The processes that answer together, each a share of the questions."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
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


# -- chat turns -------------------------------------------------------------------------------------------------------


def chat_turns(question: Question, settings: GenerationSettings) -> tuple[Message, ...]:
    """Returns a question as chat turns, with a bare `{"type": "image"}` where its picture belongs, if it has one."""
    picture = [] if question.image is None else [{"type": "image"}]
    content = [*picture, {"type": "text", "text": question.prompt}]
    asked: Message = {"role": "user", "content": content}
    if settings.system_prompt is None:
        return (asked,)
    return ({"role": "system", "content": [{"type": "text", "text": settings.system_prompt}]}, asked)


def render_prompt(question: Question, settings: GenerationSettings, renderer: Renderer) -> str:
    """Returns the text that a model continues, with its own unexpanded placeholder for the picture.

    Raises RowError, naming the question, where the model's processor has no chat template, or one that refuses these
    turns or leaves the system prompt out, and for a question that has one of the model's own tokens in its text.
    """
    example = PreferenceExample(id=question.id, prompt=chat_turns(question, settings), responses={})
    try:
        return renderer.render(example, (), with_images=question.image is not None).prompt
    except RowError as error:
        raise RowError(f"{error.problem}; {_MENDED}", source=question.id) from error


def load_image(image: LazyImage) -> Image.Image:
    """Returns the picture, upright, in 8-bit RGB. Raises RowError for one that cannot be read."""
    return image() if callable(image) else open_image(image)


def chat_request(question: Question, settings: GenerationSettings) -> list[Message]:
    """Returns the turns of a question in OpenAI's form, the picture as a data URL. Raises RowError as `load_image`."""
    if question.image is None:
        return list(chat_turns(question, settings))
    picture = {"type": "image_url", "image_url": {"url": write_data_url(question.image)}}
    return [
        {**turn, "content": [picture if part["type"] == "image" else part for part in turn["content"]]}
        for turn in chat_turns(question, settings)
    ]


def write_data_url(image: LazyImage) -> str:
    """Returns a data URL: an upright JPEG or PNG file as it is, all else as PNG; raises RowError as `load_image`."""
    if isinstance(image, str | Path) and (kind := _kind_of_file(image)) is not None:
        content = Path(image).read_bytes()
    else:
        kind, buffer = "image/png", io.BytesIO()
        load_image(image).save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _kind_of_file(path: str | Path) -> str | None:
    """Returns the type of a file that any server shows as `load_image` does, None if it may show it differently."""
    load_image(path)  # a file that is cut off is found here, not by the server
    with Image.open(path) as image:
        is_plain = image.mode == "RGB" and image.getexif().get(_EXIF_ORIENTATION, 1) == 1
        return _SENT_AS_THEY_ARE.get(image.format or "") if is_plain and not image.has_transparency_data else None


def sort_key(question: Question) -> tuple[int, int]:
    """Returns what questions are batched by: the length of the words, then the pixels of the picture.

    Questions of one length are mostly of one kind, with answers of one length; some models read larger pictures as
    more tokens. A picture that is drawn, or that cannot be opened, counts as 0 pixels: whoever reads it will say so.
    """
    image = question.image
    return len(question.prompt), _count_pixels(image) if isinstance(image, str | Path) else 0


@lru_cache(maxsize=100_000)
def _count_pixels(path: str | Path) -> int:
    """Reads the header alone; benchmarks ask about one picture many times."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:  # decoders raise nearly anything
        return 0
