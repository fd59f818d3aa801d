"""`mmdpo data convert`: a dataset of any format as one Parquet file in the format `trl`, with its images inside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
from xxhash import xxh3_128

from mmdpo.data.columns import FLAG
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.faults import Fault, as_fault
from mmdpo.data.images import digest_image, image_size
from mmdpo.data.validate import validate_example
from mmdpo.files import explain_unwritable, to_json
from mmdpo.progress import count
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, RowError, Text, derive_generator

Pairs = Literal["best_worst", "all"]

_ROWS_AT_ONCE = 64
_TURNS = datasets.List({"role": datasets.Value("string"), "content": datasets.List(
    {"type": datasets.Value("string"), "text": datasets.Value("string")}
)})  # fmt: skip
_IMAGES = datasets.List(datasets.Image())
_BOXES = datasets.List(datasets.List(datasets.List(datasets.Value("float64"))))
_MOST_CLIPPED, _SPREAD = 0.25, 0.1**0.5
"""MMedPO's weights: 1 + √0.1 · z, cut to [0.75, 1.25]."""


@dataclass(frozen=True)
class Conversion:
    """What became of a dataset."""

    rows: int
    """Rows that were read."""
    written: int
    pairs: int
    """Pairs that the rows hold, faulty ones aside."""
    repeats: int
    """Pairs with the prompt, answers and images of an earlier one, which are not written again."""
    faults: tuple[Fault, ...]
    """Rows that are not written, `skip` permitting."""


def convert_dataset(
    dataset: PreferenceDataset,
    out: Path,
    *,
    pairs: Pairs = "best_worst",
    sample: int | None = None,
    seed: int = 0,
    normalise: str | None = None,
    skip: bool = False,
) -> Conversion:
    """Writes the examples of a dataset to a Parquet file, each once, and returns what became of its rows.

    Texts and columns are kept as they are, images as the bytes of their files; ids are those of the dataset. `pairs:
    all` writes every pair of a row that holds several answers with ratings. `sample` draws so many pairs, by the seed
    alone and in their order. `normalise` names a numeric column s whose normalised value becomes the column `weight`:
    1 + √0.1 · (s − mean) / std over what is written, cut to [0.75, 1.25], as MMedPO weighs its pairs.

    Raises RowError where a row is faulty, unless `skip` leaves it out and returns it; ValueError where nothing is left
    to write, a column to normalise is missing, or `sample` asks for more than there is; OSError where the file cannot
    be written, and what was there before is untouched.
    """
    found: list[tuple[int, int]] = []
    faults: list[Fault] = []
    seen: set[bytes] = set()
    repeats, shape = 0, Shape()
    for place in count(range(len(dataset)), "reading", "row"):
        try:
            for number, example in enumerate(_read(dataset, place, pairs)):
                _check(example)
                digest = _digest(example)
                if digest in seen:
                    repeats += 1
                    continue
                seen.add(digest)
                shape.add(example)
                found.append((place, number))
        except Exception as error:  # odd rows raise nearly anything
            faults.append(as_fault(dataset, place, error))
            if not skip:
                how = "`mmdpo data check` lists all faulty rows, and --on_bad_row skip leaves them out"
                raise RowError(f"{faults[0].problem} ({how})", source=faults[0].source) from error
    if not found:
        raise ValueError(f"{dataset.name}: there is no pair to write")
    if sample is not None:
        if not 0 < sample <= len(found):
            raise ValueError(f"sample: {sample} of {len(found)} pairs cannot be drawn")
        drawn = derive_generator(seed, dataset.name, "sample of pairs").choice(len(found), sample, replace=False)
        found = [found[place] for place in sorted(drawn.tolist())]
    weights = None if normalise is None else _normalise(dataset, found, pairs, normalise)
    write_examples(
        (_read(dataset, place, pairs)[number] for place, number in found),
        out,
        shape,
        None if weights is None else {"weight": weights},
        total=len(found),
    )
    return Conversion(len(dataset), len(found), len(seen) + repeats, repeats, tuple(faults))


class Shape:
    """The columns that examples need: found before the first is written, since a file has the same for all."""

    def __init__(self) -> None:
        self.is_plain: bool | None = None
        self.responses: dict[str, None] = {}
        self.weights: dict[str, None] = {}
        self.has: set[str] = set()

    def add(self, example: PreferenceExample) -> None:
        """Adds what an example has. Raises RowError for a prompt of another form than those before."""
        is_plain = isinstance(example.prompt, str)
        if self.is_plain not in (None, is_plain):
            raise RowError(
                "some prompts are plain text and others chat turns: convert them apart", source=example.source
            )
        self.is_plain = is_plain
        self.responses |= dict.fromkeys(example.responses)
        self.weights |= dict.fromkeys(example.weights)
        if example.rejected_images or example.is_corrupted is False:
            self.has.add("rejected_images")
        if example.is_corrupted is not None:
            self.has.add(FLAG)
        self.has |= {"boxes" if isinstance(region, tuple) else "masks" for region in example.regions}
        if len(self.has & {"boxes", "masks"}) > 1:
            raise RowError("some rows mark regions by masks and others by boxes: convert them apart")

    def features(self) -> datasets.Features:
        """Returns the columns of the file, images as `datasets.Image`."""
        text = datasets.Value("string") if self.is_plain else _TURNS
        columns: dict[str, Any] = {"id": datasets.Value("string"), "prompt": text}
        columns |= dict.fromkeys([CHOSEN, REJECTED, *self.responses], text)
        columns |= {"images": _IMAGES} | dict.fromkeys(self.weights, datasets.Value("float64"))
        kinds = {"rejected_images": _IMAGES, "masks": _IMAGES, "boxes": _BOXES, FLAG: datasets.Value("int8")}
        return datasets.Features(columns | {name: kind for name, kind in kinds.items() if name in self.has})


class ExampleWriter:
    """A Parquet file in the format `trl` that examples are added to: there once the block ends, whole or not at all.

    Entering, adding and leaving raise UnusableFileError where the disk takes no more.
    """

    def __init__(self, out: Path, shape: Shape, columns: Mapping[str, type]) -> None:
        """`columns` are further ones by the type of their values: numbers, texts, and what else JSON holds, as text."""
        kinds = {name: datasets.Value(_TYPES.get(kind, "string")) for name, kind in columns.items()}
        self._schema = datasets.Features(shape.features() | kinds).arrow_schema
        self._out, self._part = out, out.with_name(f".{out.name}.part")
        self._rows: list[dict[str, Any]] = []
        self.count = 0

    def __enter__(self) -> ExampleWriter:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._explaining():
                self._file = parquet.ParquetWriter(self._part, self._schema)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            if kind is not None:
                with suppress(OSError):  # the file goes away in any case
                    self._file.close()
                return
            self._flush()
            with self._explaining():
                self._file.close()
                os.replace(self._part, self._out)  # noqa: PTH105
        finally:
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Raises UnusableFileError, which names the file, where the disk takes no more; the library names none."""
        try:
            yield
        except OSError as error:
            if not error.errno:
                raise
            raise explain_unwritable(self._out, OSError(error.errno, os.strerror(error.errno))) from error

    def add(self, example: PreferenceExample, values: Mapping[str, Any]) -> None:
        """Adds an example and what further columns hold of it. Raises RowError for an image that cannot be read."""
        self._rows.append(_to_row(example) | {name: _as_value(value) for name, value in values.items()})
        self.count += 1
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with self._explaining():
                self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()


def write_examples(
    examples: Iterable[PreferenceExample],
    out: Path,
    shape: Shape | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    total: int | None = None,
) -> int:
    """Writes examples to a Parquet file in the format `trl`, whole or not at all, and returns how many.

    `columns` are further ones, a value for each example: numbers, texts, and what else JSON holds, as its text. Without
    a shape all examples are looked at first. `total` is how many they are, for the bar. Raises RowError for an image
    that cannot be read.
    """
    if shape is None:
        examples, shape = list(examples), Shape()
        for example in examples:
            shape.add(example)
    columns = columns or {}
    kinds = {name: type(next((of for of in values if of is not None), "")) for name, values in columns.items()}
    with ExampleWriter(out, shape, kinds) as writer:
        for place, example in enumerate(count(examples, "writing", "row", total=total)):
            writer.add(example, {name: values[place] for name, values in columns.items()})
    return writer.count


_TYPES = {bool: "bool", int: "int64", float: "float64"}
"""Of a further column's values; any other is text."""
_KEPT = (*_TYPES, str)
"""Types of values that are written as they are."""


def _as_value(value: Any) -> Any:
    return value if value is None or isinstance(value, _KEPT) else to_json(value)


def _to_row(example: PreferenceExample) -> dict[str, Any]:
    rejected = example.images if example.is_corrupted is False else example.rejected_images
    row: dict[str, Any] = {"id": example.id, "prompt": _write_text(example.prompt)}
    row |= {name: _write_text(text) for name, text in example.responses.items()}
    row |= {"images": list(map(_embed, example.images)), "rejected_images": list(map(_embed, rejected)) or None}
    row |= dict(example.weights)
    if example.is_corrupted is not None:
        row[FLAG] = int(example.is_corrupted)
    if example.regions:
        is_boxes = isinstance(example.regions[0], tuple)
        row |= {"boxes": example.regions} if is_boxes else {"masks": [_embed(m) for m in example.regions]}  # type: ignore[arg-type]
    return row


def _write_text(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [
        {
            "role": turn["role"],
            "content": [{"type": part["type"], "text": part.get("text")} for part in turn["content"]],
        }
        for turn in text
    ]


def _embed(image: ImageSource | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(image, str | Path):
        path = Path(image)
        return {"bytes": path.read_bytes(), "path": path.name}
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if isinstance(image, Mapping):
        return dict(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _read(dataset: PreferenceDataset, place: int, pairs: Pairs) -> list[PreferenceExample]:
    return dataset.read_pairs(place) if pairs == "all" else [dataset[place]]


def _check(example: PreferenceExample) -> None:
    """Raises RowError for what could not be read again, and for what the file would lose."""
    validate_example(example, responses=(CHOSEN,), comparisons=())
    for image in (*example.images, *example.rejected_images):
        image_size(image)
    for text in (example.prompt, *example.responses.values()):
        for turn in () if isinstance(text, str) else text:
            if further := turn.keys() - {"role", "content"}:
                raise RowError(
                    f"a turn has {', '.join(sorted(further))} beside role and content, which the file would lose: take "
                    "it out, or put it into the content",
                    source=example.source,
                )


def _digest(example: PreferenceExample) -> bytes:
    content = [
        example.prompt,
        dict(example.responses),
        [digest_image(image) for image in example.images],
        [digest_image(image) for image in example.rejected_images],
        example.is_corrupted,
        [region if isinstance(region, tuple) else digest_image(region) for region in example.regions],
    ]
    return xxh3_128(json.dumps(content, sort_keys=True).encode(errors="surrogatepass")).digest()


def _normalise(dataset: PreferenceDataset, found: Sequence[tuple[int, int]], pairs: Pairs, column: str) -> list[float]:
    values = []
    for place, number in found:
        example = _read(dataset, place, pairs)[number]
        if column not in example.weights:
            known = ", ".join(example.weights) or "none"
            raise RowError(f"there is no numeric column {column!r} to normalise, only {known}", source=example.source)
        values.append(example.weights[column])
    return normalise_weights(values)


def normalise_weights(values: Sequence[float]) -> list[float]:
    """Returns 1 + √0.1 · z, cut to [0.75, 1.25], z the standard scores of the values; 1 where all are alike.

    Source: MMedPO (arXiv 2412.06141), whose text gives mean 1, variance 0.1 and the bounds.
    """
    given = np.asarray(values, dtype=np.float64)
    spread = given.std()
    scores = (given - given.mean()) / spread if spread else np.zeros_like(given)
    weights: list[float] = np.clip(1 + _SPREAD * scores, 1 - _MOST_CLIPPED, 1 + _MOST_CLIPPED).tolist()
    return weights


def describe(conversion: Conversion, out: Path) -> str:
    """Returns what became of a dataset, in words."""
    parts: Mapping[str, int] = {
        "rows read": conversion.rows,
        "pairs": conversion.pairs,
        "repeats left out": conversion.repeats,
        "faulty rows left out": len(conversion.faults),
    }
    told = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    return f"{told}; {conversion.written:,} pairs written: {out}"
