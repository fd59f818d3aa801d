"""A question, how it is answered, and the answer; and the one place where a question becomes chat turns.

A question becomes the same turns whatever answers it: perhaps a system prompt, then the pictures and the words, or the
turns that it has. A model that is loaded here reads them through its own chat template, as in training; a server gets
the same turns with the pictures inside them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from PIL import Image

from mmdpo.data.images import open_image
from mmdpo.data.messages import count_placeholders
from mmdpo.records import CHOSEN, ImageSource, Message, PreferenceExample, RowError, derive_seed

if TYPE_CHECKING:
    from mmdpo.data.tokenise import Renderer

_MENDED: Final = "leave --system_prompt out if there is one, or give another template with --chat_template"
_EXIF_ORIENTATION: Final = 0x0112
_SENT_AS_THEY_ARE: Final = {"JPEG": "image/jpeg", "PNG": "image/png"}
"""Formats that every server reads; pictures in others are sent as PNG, which loses nothing."""
MOST_LOGPROBS: Final = 20
"""First tokens that vLLM and OpenAI's protocol name at most."""

LazyImage: TypeAlias = "ImageSource | Callable[[], Image.Image]"
"""A picture before it is opened, or a function that draws it: a benchmark of pictures that are no files has those."""


@dataclass(frozen=True)
class Question:
    """One thing that a model is asked, about a picture, about several, or by words alone."""

    id: str
    prompt: str | tuple[Message, ...]
    """Words, which the pictures stand before; or chat turns, contents in parts, with a place for each picture."""
    image: LazyImage | tuple[LazyImage, ...] | None = None
    seed: int | None = None
    """Of sampling; derived from the settings' seed and the id unless given."""
    begun: str = ""
    """First words of the answer, which the model goes on from: the answer's text begins with them."""

    def sampling_seed(self, settings: GenerationSettings) -> int:
        """Returns the seed that an answer to this question is sampled by: the same in any batch, and when resumed."""
        return derive_seed(settings.seed, self.id, "generation") if self.seed is None else self.seed

    @property
    def images(self) -> tuple[LazyImage, ...]:
        """The pictures, in order."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def prompt_key(self) -> Hashable:
        """Equal where two questions are read alike: the same words, and the same files, bytes or open pictures."""
        pictures = tuple(image if isinstance(image, str | Path | bytes) else id(image) for image in self.images)
        return repr(self.prompt), self.begun, pictures


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
    top_logprobs: int = 0
    """An answer's details say log π of so many of the likeliest tokens that it might have begun with, 20 at most."""

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
        if not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise ValueError(f"top_logprobs is a count of tokens, 0 to {MOST_LOGPROBS}; got {self.top_logprobs}")

    def describe(self) -> dict[str, Any]:
        """Returns what answers depend on."""
        described = asdict(self)
        if not self.top_logprobs:  # answers that were begun without the option can be resumed
            del described["top_logprobs"]
        return described


@dataclass(frozen=True)
class GeneratedAnswer:
    """What a model said to a question: stripped, without special tokens."""

    id: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """As far as it is known: `finish_reason`; `tokens`, which are new, the end included; `prompt_tokens`; `logprob`,
    where it was sampled: of all its new tokens under the sampler, temperature and top_p included, in nats;
    `top_logprobs`, where they were asked for: of texts of first tokens, log π of the model itself, at temperature 1."""


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


INCIDENTAL = ("versions", "base_url")
"""Of what an answerer says of itself, what its answers do not depend on: a server may have moved since."""


def describe_source(answerer: Answerer) -> dict[str, Any]:
    """Returns what the answers of a model depend on besides the settings, and answers that are to go together share."""
    return {name: of for name, of in answerer.describe().items() if name not in INCIDENTAL}


def merge_logprobs(likeliest: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Returns log π of texts in nats, the likeliest first; tokens of equal text are one, as likely as all together."""
    texts: dict[str, list[float]] = {}
    for text, logprob in likeliest:
        if math.isfinite(logprob):
            texts.setdefault(text, []).append(logprob)
    merged = {}
    for text, logprobs in texts.items():
        highest = max(logprobs)
        merged[text] = highest + math.log(sum(math.exp(logprob - highest) for logprob in logprobs))
    return dict(sorted(merged.items(), key=lambda item: item[1], reverse=True))


# -- chat turns -------------------------------------------------------------------------------------------------------


def chat_turns(question: Question, settings: GenerationSettings) -> tuple[Message, ...]:
    """Returns a question as chat turns, with a bare `{"type": "image"}` where each picture belongs.

    Raises RowError for turns with more or fewer places than there are pictures.
    """
    asked, images = question.prompt, question.images
    if isinstance(asked, str):
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": asked}]
        asked = ({"role": "user", "content": content},)
    elif (places := count_placeholders(asked)) != len(images):
        raise RowError(f"its turns have {places} places for {len(images)} images", source=f"item {question.id}")
    if settings.system_prompt is None:
        return asked
    return ({"role": "system", "content": [{"type": "text", "text": settings.system_prompt}]}, *asked)


def render_prompt(question: Question, settings: GenerationSettings, renderer: Renderer) -> str:
    """Returns the text that a model continues, with its own unexpanded placeholder for each picture.

    An answer that is begun stands after the prompt as one of training does.

    Raises RowError, naming the question, where the model's processor has no chat template, or one that refuses these
    turns or leaves the system prompt out, and for a question that has one of the model's own tokens in its text.
    """
    begun = {CHOSEN: question.begun} if question.begun else {}
    example = PreferenceExample(id=question.id, prompt=chat_turns(question, settings), responses=begun)
    try:
        text = renderer.render(example, begun, with_images=bool(question.images))
        answer = text.answers.get(CHOSEN, "")  # as the template writes it: up to the end of its words
        return text.prompt + answer[: answer.index(question.begun) + len(question.begun)]
    except RowError as error:
        raise RowError(f"{error.problem}; {_MENDED}", source=question.id) from error


def load_image(image: LazyImage) -> Image.Image:
    """Returns the picture, upright, in 8-bit RGB. Raises RowError for one that cannot be read."""
    return image() if callable(image) else open_image(image)


def chat_request(question: Question, settings: GenerationSettings) -> list[Message]:
    """Returns the turns of a question in OpenAI's form, each picture as a data URL. Raises RowError as `load_image`."""
    turns = chat_turns(question, settings)
    pictures = iter([{"type": "image_url", "image_url": {"url": write_data_url(image)}} for image in question.images])
    return [
        {**turn, "content": [next(pictures) if part["type"] == "image" else part for part in turn["content"]]}
        for turn in turns
    ]


def write_data_url(image: LazyImage) -> str:
    """Returns a data URL: an upright JPEG or PNG, a file or its bytes, as it is, all else as PNG.

    Raises RowError as `load_image`.
    """
    if isinstance(image, str | Path | bytes) and (kind := _kind_of_file(image)) is not None:
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
    else:
        kind, buffer = "image/png", io.BytesIO()
        load_image(image).save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _kind_of_file(file: str | Path | bytes) -> str | None:
    """Returns the type of a file that any server shows as `load_image` does, None if it may show it differently."""
    load_image(file)  # a file that is cut off is found here, not by the server
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        is_plain = image.mode == "RGB" and image.getexif().get(_EXIF_ORIENTATION, 1) == 1
        return _SENT_AS_THEY_ARE.get(image.format or "") if is_plain and not image.has_transparency_data else None


def arrange(questions: Sequence[Question]) -> list[Question]:
    """Returns the questions as they are best asked: the longest first, and those that are read alike in a row."""
    alike: dict[Hashable, list[Question]] = {}
    for question in questions:
        alike.setdefault(question.prompt_key, []).append(question)
    ordered = sorted(alike.values(), key=lambda several: sort_key(several[0]), reverse=True)
    return [question for several in ordered for question in several]


def sort_key(question: Question) -> tuple[int, int]:
    """Returns what questions are batched by: the length of the words, then the pixels of the pictures.

    Questions of one length are mostly of one kind, with answers of one length; some models read larger pictures as
    more tokens. A picture that is drawn, or that cannot be opened, counts as 0 pixels: whoever reads it will say so.
    """
    pixels = sum(_count_pixels(image) for image in question.images if isinstance(image, str | Path))
    return len(str(question.prompt)), pixels


@lru_cache(maxsize=100_000)
def _count_pixels(path: str | Path) -> int:
    """Reads the header alone; benchmarks ask about one picture many times."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:  # decoders raise nearly anything
        return 0
