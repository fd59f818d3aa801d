"""Prompts of the data engine: from a dataset of any format, from rows with a prompt alone, or a folder of images."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from mmdpo.benchmarks import tasks
from mmdpo.data import formats
from mmdpo.data.columns import ID_COLUMNS, ask, one_of
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import digest_image, image_sources
from mmdpo.data.messages import (
    IMAGE_PLACEHOLDER,
    is_messages,
    plain_text,
    read_answer,
    read_prompt,
    split_last_answer,
)
from mmdpo.data.read import FoundRows, open_rows
from mmdpo.files import digest_of, irregular_kind, read_json
from mmdpo.records import CHOSEN, ImageSource, Message, RowError, named_source
from mmdpo.world import PROMPT, SMALL, World, find_world
from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, render, sample_scenes

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TRUTH = ("objects", "answer", "reference")
"""Columns that judges read: what is there, the short right answer, an answer that is right."""
WORLD_PROMPTS = 900
"""How many prompts an embedded world has, where its name is all that is given."""
_IN_TEMPLATE = re.compile(r"(?:(?!USER:).)*USER:\s*((?:(?!USER:|ASSISTANT:).)*?)\s*ASSISTANT:", re.DOTALL)
"""A prompt that holds Vicuna's template already, as the data of the mDPO paper do."""
_OF_BENCHMARKS = re.compile(r"COCO_val2014_\d+|AMBER_\d+")
"""Names of pictures that benchmarks ask about."""


class PromptsError(ValueError):
    """Prompts that pairs should not be made of."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, several times."""

    id: str
    turns: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)
    """Columns of `TRUTH` that the row has."""
    source: str = ""
    licence: str = ""

    @property
    def question(self) -> str:
        """What is asked, in words: the last turn of the user."""
        return plain_text((self.turns[-1],)).replace(IMAGE_PLACEHOLDER, "").strip()

    @cached_property
    def image_digests(self) -> tuple[str, ...]:
        """The SHA-256 of each picture. Raises RowError, which names the row, for one that cannot be read."""
        with named_source(self.source):
            return tuple(map(sha256_image, self.images))

    @cached_property
    def digest(self) -> str:
        """Of all that a model reads: turns and pictures."""
        return digest_prompt(self.turns, self.image_digests)


def digest_prompt(turns: Sequence[Message], images: Sequence[str]) -> str:
    """Returns the digest of what a model reads: turns, and pictures by theirs."""
    return digest_of([turns, images])[:32]


def sha256_image(source: ImageSource) -> str:
    """Returns the SHA-256 of a picture, in hex: of its encoded bytes, or of an open picture's content.

    Raises RowError for a file that cannot be read.
    """
    if isinstance(source, Image.Image):
        return hashlib.sha256(digest_image(source).encode()).hexdigest()
    return hashlib.sha256(source if isinstance(source, bytes) else read_image_file(source)).hexdigest()


def read_image_file(path: str | Path) -> bytes:
    """Returns the content of an image file. Raises RowError for one that cannot be read."""
    try:
        if kind := irregular_kind(path):
            raise RowError(f"the image {path} cannot be read: it is {kind}; give the path of a file")
        with open(path, "rb") as file:  # noqa: PTH123 - making a Path takes as long as reading a small file
            return file.read()
    except OSError as error:
        raise RowError(f"the image {path} cannot be read ({error.strerror})") from error


def read_prompts(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    image_root: Path | None = None,
    ask_of_images: Sequence[str] = (),
    limit: int | None = None,
) -> list[Prompt]:
    """Reads prompts, the first `limit` of them.

    `name` is a folder of images, each of which is asked every text of `ask_of_images`; or what `read_dataset` reads:
    rows with `prompt` (text or turns), `question` or `messages`, and `image` or `images`. Of preference pairs and of
    messages that end with an answer the prompt is taken, and the (chosen) answer is the reference unless the row has
    one. `world` and `world_large` are prompts of the embedded worlds.

    Raises:
        RowError: a row has no prompt or no image, or its id is another row's; names the row.
        PromptsError: there is nothing to ask, it is a benchmark's, or `image_root` is given and no row has a path.
    """
    world, folder = find_world(name), Path(name).expanduser()
    if image_root is not None and (world is not None or (ask_of_images and folder.is_dir())):
        brings = "an embedded world, which draws its images" if world is not None else "a folder of images"
        raise PromptsError(
            f"image_root: {name} is {brings}: leave image_root out, which is for paths in the rows of a file"
        )
    if world is not None:
        return draw_prompts(min(limit or WORLD_PROMPTS, WORLD_PROMPTS), 0, world)
    _refuse_benchmark(name)
    files = list_images(folder) if folder.is_dir() else []
    if ask_of_images:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else f"does not exist (looked for in {Path.cwd()})"
            raise PromptsError(
                f"{name} {what}: --ask wants a folder of images; rows of a file bring their own questions"
            )
        prompts = [
            _make(f"{file.relative_to(folder)}{f'#{n}' if n else ''}", ask(text), (file,), {}, str(file))
            for file in files
            for n, text in enumerate(ask_of_images)
        ][:limit]
        if not prompts:
            raise PromptsError(f"{name}: there is no image in this folder ({', '.join(IMAGE_ENDINGS)})")
        return prompts
    if (
        files
        and not any(folder.glob("*.json*"))
        and not any(folder.glob("*.parquet"))
        and not any(folder.glob("*.csv"))
    ):
        raise PromptsError(
            f'{name} is a folder of {len(files):,} images: say what to ask of them, --ask "Describe it."'
        )
    found = open_rows(name, split=split, config=config)
    prompts = _read_rows(found, image_root)
    if not prompts:
        raise PromptsError(f"{name}: there are no prompts")
    repeated = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated:
        raise RowError(f"the id {repeated[0]!r} is given to several prompts", source=found.name)
    return prompts[:limit]


def _read_rows(found: FoundRows, image_root: Path | None = None) -> list[Prompt]:
    root = image_root or found.root
    first = found.rows[0] if len(found.rows) else {}
    # One that has a chosen answer is meant as a pair, if of no known format.
    if isinstance(first, Mapping) and (
        CHOSEN in first or any(formats.load(of).matches(first) for of in formats.names())
    ):
        return _read_pairs(PreferenceDataset.from_rows(found.rows, name=found.name, image_root=root), found.rows)
    return [read_row(row, n, found.name, root) for n, row in enumerate(found.rows, start=1)]


def draw_prompts(count: int, seed: int, world: World = SMALL, purpose: str = "own pairs") -> list[Prompt]:
    """Returns prompts about fresh scenes of an embedded world, with the objects that are there."""
    turns: tuple[Message, ...] = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]},)
    scenes = sample_scenes(count, seed, BALANCED_CO_OCCURRENCE, purpose, world)
    return [
        Prompt(f"{purpose}-{seed}-{place}", turns, (render(scene),), {"objects": list(scene.names)}, f"scene {place}")
        for place, scene in enumerate(scenes)
    ]


def list_images(folder: Path) -> list[Path]:
    """Returns the image files in a folder and below it, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS and file.is_file())


def read_held_out(names: Sequence[str]) -> frozenset[str]:
    """Returns the SHA-256 of every image in folders of images, files and datasets; raises what reading them raises."""
    digests = set[str]()
    for name in names:
        path = Path(name).expanduser()
        if path.suffix.lower() in IMAGE_ENDINGS:
            digests.add(sha256_image(path))
        elif path.is_dir() and (files := list_images(path)):
            digests.update(map(sha256_image, files))
        else:  # a benchmark's too, whose ids may repeat
            prompts = _read_rows(open_rows(name)) if find_world(name) is None else read_prompts(name)
            digests.update(digest for prompt in prompts for digest in prompt.image_digests)
    return frozenset(digests)


def find_held_out(prompts: Sequence[Prompt], held_out: frozenset[str]) -> Iterator[tuple[Prompt, str]]:
    """Yields the prompts whose pictures are to be left out, with the reason.

    One whose picture cannot be read is not among them: whoever asks it leaves it out, and names it.
    """
    for prompt in prompts:
        names = [Path(image).name for image in prompt.images if isinstance(image, str | Path)]
        if any(map(_OF_BENCHMARKS.search, names)):
            yield prompt, "image of a benchmark"
        elif held_out:
            with suppress(RowError):
                if not held_out.isdisjoint(prompt.image_digests):
                    yield prompt, "image held out"


def _refuse_benchmark(name: str) -> None:
    """Raises PromptsError for the data of a benchmark: who trains on it can no longer be measured by it."""
    path = Path(name).expanduser()
    home = Path.home()
    own = path.relative_to(home) if path.is_relative_to(home) else name  # whoever is called Amber has a home too
    words = re.findall(r"[a-z0-9_]+", str(own).lower().replace("-", "_"))
    known = [task for task in tasks.names() if find_world(task) is None]
    for task in (*known, "objhal", "hallusionbench", "mmvp", "mmbench"):
        if any(f"_{task}_" in f"_{word}_" for word in words):
            raise PromptsError(
                f"{name} looks like the benchmark {task}: a model that was trained on it can no longer be measured by "
                "it. Take other prompts, or rename the file if it has nothing to do with that benchmark"
            )


def _read_pairs(dataset: PreferenceDataset, rows: Any) -> list[Prompt]:
    prompts = []
    for place, example in enumerate(dataset):
        asked = example.prompt
        if isinstance(asked, str):
            inside = _IN_TEMPLATE.fullmatch(asked.strip())
            asked = tuple(ask(asked if inside is None else inside[1]))
        chosen, row = example.responses.get(CHOSEN), rows[place]
        truth = {} if chosen is None else {"reference": plain_text(chosen).strip()}
        licence = str(row.get("licence") or "")
        prompts.append(_make(example.id, asked, example.images, truth | _read_truth(row), example.source, licence))
    return prompts


def _read_truth(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: row[column] for column in TRUTH if row.get(column) is not None}


def read_row(row: Any, number: int, name: str, root: Path | None) -> Prompt:
    """Returns the prompt of a row of `name`; raises RowError, which names the row, for one that asks nothing."""
    source = f"{name}, row {number}"
    if not isinstance(row, Mapping):
        raise RowError(f"it is {type(row).__name__} and no row", source=source)
    truth = _read_truth(row)
    try:
        said = one_of(row, "prompt", "question", "messages")
        images = image_sources(one_of(row, "image", "images", "img_path"), root)
        if is_messages(said) and said[-1]["role"] == "assistant":
            said, last = split_last_answer(said, column="messages")
            truth.setdefault("reference", plain_text(read_answer([last], column="messages")))
    except RowError as error:
        raise RowError(error.problem, source=source) from error
    if not is_messages(said) and (not isinstance(said, str) or not said.strip()):
        raise RowError(f"`prompt` is {said!r:.60}: write the text, or chat turns", source=source)
    own = next((str(row[column]) for column in ID_COLUMNS if row.get(column) is not None), str(number))
    return _make(own, said if is_messages(said) else ask(said), images, truth, source, str(row.get("licence") or ""))


def _make(
    name: str, turns: Any, images: Sequence[ImageSource], truth: Mapping[str, Any], source: str, licence: str = ""
) -> Prompt:
    try:
        conversation = read_prompt(turns, images, image_root=None, column="prompt")
        if not conversation.images:
            raise RowError("the prompt has no image: pairs are made to teach a model to look at one")
    except RowError as error:
        raise RowError(error.problem, source=source) from error
    return Prompt(name, conversation.turns, conversation.images, dict(truth), source, licence)


def read_vocabulary(path: Path | None, dataset: str | None) -> dict[str, str]:
    """Returns word → object as a file says, else the objects of the embedded world that a dataset is, else none.

    Raises PromptsError where there is no such file and for one of another kind, ValueError for a damaged one.
    """
    if path is None:
        world = find_world(dataset)
        return {name: name for name in world.objects} if world is not None else {}
    try:
        content = read_json(path)
    except OSError as error:
        raise PromptsError(f"--vocabulary: {path} cannot be read ({error.strerror or error})") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise PromptsError(f'{path}: a vocabulary is an object of words, such as {{"puppy": "dog", "dog": "dog"}}')
    return {word.lower(): name for word, name in content.items()}
