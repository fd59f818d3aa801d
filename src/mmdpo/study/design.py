"""The records of a study: variants × seeds from one start, and what they are measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mmdpo.training.recipe import Recipe, RecipeError, parse_recipe
from mmdpo.world.pairs import DecidedBy
from mmdpo.world.worlds import SMALL

START = "start"
"""Name of what every variant begins as; it is measured, not trained."""


class StudyError(ValueError):
    """A study that cannot be run: says which file and key, and how to mend it."""


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    about: str
    options: Mapping[str, Any]
    """All keys of its recipe but those that the study sets."""
    pairs: int | None = None
    """How many pairs of an embedded world are made; None means as many as its training split has."""
    decided_by: DecidedBy = "style"
    """Which kind of an embedded world's pairs."""
    fraction: float = 1.0
    """Share of the training pairs that is used, drawn by the seed; a larger share holds the smaller ones."""

    def recipe(self, output_dir: str | Path, seed: int) -> Recipe:
        """Returns the recipe of a trial. Raises RecipeError as `parse_recipe` does."""
        return _parse({**self.options, "output_dir": str(output_dir), "seed": seed})


@dataclass(frozen=True)
class Evaluation:
    """What every model of a study is measured on."""

    scenes: int = 0
    """Test scenes of an embedded world to caption."""
    world: str = SMALL.name
    """Which world's; that of the training pairs unless given."""
    dataset_name: str | None = None
    """Held-out pairs: `world`, a file, a folder or a hub name; None means no measures of preference."""
    dataset_split: str = "test"
    pairs: int | None = None
    """How many of them, the first; all if None."""
    decided_by: DecidedBy = "style"
    """Which kind of an embedded world's pairs; that of `options` unless given."""
    batch_size: int = 8
    benchmarks: tuple[Mapping[str, Any], ...] = ()
    """Benchmarks of `mmdpo eval`: `name`, `data_dir`, and further options of answering and scoring."""


@dataclass(frozen=True)
class Study:
    """A study, checked."""

    file: str
    command: str
    """What runs it again."""
    name: str
    about: str
    variants: tuple[Variant, ...]
    """The start first; the second is the one that differences are taken to."""
    seeds: tuple[int, ...]
    evaluation: Evaluation
    keep_models: bool = False
    content: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the file says."""


def _parse(values: Mapping[str, Any]) -> Recipe:
    """Parses a mapping by the rules of recipe files: through one."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
        try:
            return parse_recipe(["--config", str(path)])
        except RecipeError as error:
            raise RecipeError(str(error).removeprefix(f"{path}: ")) from error
