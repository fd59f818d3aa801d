"""The two embedded worlds: what stands in them, how their pictures are made, and how large their captioner is.

world         96 × 96 pixels, 18 objects, a captioner of 1.2 million parameters that ships with the package
world_large   144 × 144 pixels, 36 objects, a captioner of 6.0 million that `python -m mmdpo.world.build` makes

The large one is harder in two ways, both meant to be fairer to methods that corrupt images. Every partner has a twin
that looks like it but for one detail and often stands in its place: a detail decides which of two answers is right.
And objects come in all sizes, so that size alone does not betray a crop that was blown up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
PROMPT = "describe"
"""The one instruction of these worlds."""


@dataclass(frozen=True)
class Pair:
    """Two objects, of which the second often stands beside the first, and a twin that may stand in its place."""

    anchor: str
    partner: str
    twin: str | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """All of them, in canonical order."""
        return tuple(name for name in (self.anchor, self.partner, self.twin) if name is not None)


@dataclass(frozen=True)
class Layout:
    """How near the objects of a scene are. A scene has one layout, an object a cell of it to itself."""

    grid: int
    """Cells along each side of the picture."""
    object_sizes: tuple[int, ...]
    """Pixels along the side of an object."""
    jitter: int
    """Most pixels, along either axis, between the centres of an object and its cell."""


@dataclass(frozen=True)
class Network:
    """Size of the captioner: a CLIP tower and a Llama of one width."""

    hidden_size: int
    vision_layers: int
    text_layers: int
    patch_size: int
    heads: int = 4


@dataclass(frozen=True, eq=False)
class World:
    """One world. Its objects in canonical order are those of its settings, pair by pair."""

    name: str
    """Its name as a model, as a dataset and as a benchmark."""
    settings: Mapping[str, tuple[Pair, ...]]
    """The settings and the pairs that each of them owns."""
    image_size: int
    """Pixels along each side of a picture."""
    layouts: tuple[Layout, ...]
    """A scene's layout is one of those that have a cell for each of its objects, all equally likely."""
    pixel_noise: float
    """Standard deviation of the noise on every channel of every pixel, of 255."""
    network: Network
    twin_rate: float = 0.0
    """Probability that a partner's twin stands beside the anchor when the partner does not."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of all settings."""
        return tuple(pair for pairs in self.settings.values() for pair in pairs)

    @cached_property
    def partners(self) -> Mapping[str, str]:
        """Anchor → partner."""
        return {pair.anchor: pair.partner for pair in self.pairs}

    @cached_property
    def twins(self) -> Mapping[str, str]:
        """Partner → twin, for those that have one."""
        return {pair.partner: pair.twin for pair in self.pairs if pair.twin is not None}

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """All object names in canonical order: setting by setting, each anchor before its partner."""
        return tuple(name for pair in self.pairs for name in pair.members)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens of the tokenizer; a token's place is its id."""
        said = (",", ".", "!", "sure", "this", "shows", "hope", "helps")
        return (PAD, BOS, EOS, UNKNOWN, IMAGE, "user", "assistant", PROMPT, *self.settings, *self.objects, *said)

    @cached_property
    def object_sizes(self) -> tuple[int, ...]:
        """Pixels along the side of an object, all that occur, smallest first."""
        return tuple(sorted({size for layout in self.layouts for size in layout.object_sizes}))

    @property
    def max_words(self) -> int:
        """Room for any caption: a polite one of all n objects has 2 n + 9 words."""
        return 2 * len(self.objects) + 12

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes up in a prompt."""
        side = self.image_size // self.network.patch_size
        return side * side

    @property
    def checkpoint(self) -> Path:
        """Folder of the supervised checkpoint; raises FileNotFoundError for one that is still to be built, or again."""
        if self is SMALL:
            return Path(__file__).parent / "assets" / "small"
        folder = self.cached_checkpoint
        made = f"`python -m mmdpo.world.build --world {self.name}`, which took twenty minutes of one CPU core"
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"the checkpoint of {self.name} is not in {folder}: make it once, by {made}")
        config = json.loads((folder / "config.json").read_bytes())
        if config["vision_config"]["image_size"] != self.image_size:
            raise FileNotFoundError(
                f"the checkpoint in {folder} is that of an earlier {self.name}, whose pictures had another size: "
                f"remove it, and make it again by {made}"
            )
        return folder

    @property
    def cached_checkpoint(self) -> Path:
        """Where a checkpoint that does not ship is built to: a folder of HF_HOME."""
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "mmdpo" / self.name


SMALL = World(
    name="world",
    settings={
        "kitchen": (Pair("cup", "plate"), Pair("kettle", "stove"), Pair("apple", "bowl")),
        "street": (Pair("car", "sign"), Pair("bike", "helmet"), Pair("tree", "bench")),
        "bedroom": (Pair("bed", "lamp"), Pair("book", "clock"), Pair("rug", "chair")),
    },
    image_size=96,
    layouts=(Layout(grid=4, object_sizes=(18, 20, 22, 24), jitter=3),),
    pixel_noise=6.0,
    network=Network(hidden_size=128, vision_layers=3, text_layers=3, patch_size=24),
)
"""The world that the quickstart and the tests use."""

LARGE = World(
    name="world_large",
    settings={
        "kitchen": (Pair("cup", "plate", "saucer"), Pair("kettle", "stove", "oven"), Pair("apple", "bowl", "pot")),
        "street": (Pair("car", "sign", "poster"), Pair("bike", "helmet", "hat"), Pair("tree", "bench", "table")),
        "bedroom": (Pair("bed", "lamp", "lantern"), Pair("book", "clock", "watch"), Pair("rug", "chair", "stool")),
        "garden": (Pair("fence", "gate", "door"), Pair("rose", "bee", "fly"), Pair("pond", "duck", "goose")),
    },
    image_size=144,
    layouts=(
        Layout(grid=2, object_sizes=(44, 50, 57, 64), jitter=6),
        Layout(grid=3, object_sizes=(30, 34, 38, 42), jitter=5),
        Layout(grid=4, object_sizes=(24, 27, 30, 33), jitter=4),
        Layout(grid=6, object_sizes=(18, 20, 22, 24), jitter=3),
    ),
    pixel_noise=8.0,
    network=Network(hidden_size=256, vision_layers=4, text_layers=5, patch_size=24),
    twin_rate=0.5,
)
"""The harder world."""

WORLDS: Mapping[str, World] = {world.name: world for world in (SMALL, LARGE)}


def find_world(name: str | None) -> World | None:
    """Returns the world of that name; None for any other name, such as that of a file."""
    return WORLDS.get(name or "")
