"""The records that cross rooms, and the words that every room uses.

Data runs one way: read → `PreferenceExample` → corrupt → collate → `Batch` → score the cells → objective. A *cell* is
one (image, response) pair whose log-probability an objective needs; r(m_w, y_l) is `Cell("original", "rejected")`.

Axis letters used in tensor signatures
    B  examples of a batch                 V  image versions that the cells need
    C  cells of the objective              R  forward rows (R = C · B on the separate path)
    S  tokens of a row, padded             N  answer tokens of all rows, flattened

Imports neither torch nor transformers.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mmdpo.files import printable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ORIGINAL = "original"
"""Cell image: the example's own images, m_w in the paper."""
CORRUPTED = "corrupted"
"""Cell image: m_l, made by the run's corruption or taken from the dataset's `rejected_images`."""
NO_IMAGE = "none"
"""Cell image: the prompt without images, ∅ in the table of methods."""
CHOSEN = "chosen"
REJECTED = "rejected"

ImageSource: TypeAlias = "str | Path | bytes | Image"
"""An image before it is opened: a path, encoded bytes, or a PIL image."""
Region: TypeAlias = "ImageSource | tuple[tuple[float, float, float, float], ...]"
"""Where a picture is corrupted: a mask of its size, light there, or boxes (left, top, right, bottom) in pixels."""
Message: TypeAlias = dict[str, Any]
"""One chat turn in TRL's form: `{"role": ..., "content": str | list of {"type": "text" | "image", ...}}`."""
Text: TypeAlias = "str | tuple[Message, ...]"
"""Plain text, or chat turns that the model's chat template renders."""


class Cell(NamedTuple):
    """What a reward is a reward of: one response under one image."""

    image: str
    """`original`, `corrupted`, `none`, or the name of a corruption, for rankings over several corrupted images."""
    response: str
    """`chosen`, `rejected`, or the name of another text column of the dataset."""

    def __str__(self) -> str:
        return f"[{self.image}, {self.response}]"


def needs_image(cell: Cell) -> bool:
    """Returns whether a cell has no meaning in a row without images: its image is neither the row's own nor none."""
    return cell.image not in (ORIGINAL, NO_IMAGE)


def compares_images(one: Cell, other: Cell) -> bool:
    """Returns whether two cells differ by their images alone: in a row without images nothing tells them apart."""
    return one.response == other.response and one.image != other.image


Comparisons: TypeAlias = "tuple[tuple[Cell, Cell], ...]"
"""Pairs of cells that an objective tells apart, the preferred one first. A pair of equal ones, image and response,
teaches nothing."""


@dataclass(frozen=True)
class PreferenceExample:
    """One preference pair, whatever format it was read from. Images are not opened yet."""

    id: str
    """Stable name: the dataset's own id, else its row number. Seeds of corruption derive from it."""
    prompt: Text
    """Chat turns, or plain text with one `<image>` per image."""
    responses: Mapping[str, Text]
    """`chosen`, `rejected` and any other response column."""
    images: tuple[ImageSource, ...] = ()
    rejected_images: tuple[ImageSource, ...] = ()
    """The dataset's own corrupted images; empty means that the run's corruption makes them."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Numeric columns that a term may name as its per-example weight."""
    regions: tuple[Region, ...] = ()
    """Of each image, where a corruption of regions changes it; empty where the row says nothing."""
    is_corrupted: bool | None = None
    """Whether the image version `corrupted` is a corrupted image (True) or the image itself (False), where the row says
    so; None leaves it to the objective."""
    source: str = ""
    """Where the row came from, for messages: `pairs.json, row 12`."""


class RowError(ValueError):
    """A row of a dataset that cannot be trained on: says where, what, and how to mend it."""

    def __init__(self, problem: str, *, source: str = "") -> None:
        # Both quote data, and are printed.
        self.problem = printable(problem)
        self.source = printable(source)
        super().__init__(f"{self.source}: {self.problem}" if source else self.problem)


@contextmanager
def named_source(source: str) -> Iterator[None]:
    """Adds where the row came from to a RowError of the block that does not say it."""
    try:
        yield
    except RowError as error:
        raise error if error.source else RowError(error.problem, source=source) from error


def derive_seed(run_seed: int, example_id: str, purpose: str, epoch: int = 0) -> int:
    """Returns a 64-bit seed that depends on nothing but its arguments, so that workers and ranks agree."""
    text = f"{run_seed}\x1f{example_id}\x1f{purpose}\x1f{epoch}"
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def derive_generator(run_seed: int, example_id: str, purpose: str, epoch: int = 0) -> "np.random.Generator":
    """Returns a NumPy generator seeded by `derive_seed`."""
    import numpy as np

    return np.random.default_rng(derive_seed(run_seed, example_id, purpose, epoch))


def image_versions(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """Returns the images that the cells need, each once: V versions of every example's images."""
    return tuple(dict.fromkeys(cell.image for cell in cells))


def response_names(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """Returns the responses that the cells need, each once."""
    return tuple(dict.fromkeys(cell.response for cell in cells))
