"""What an app was opened on: datasets, runs, models, and the files that it writes. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.report.reading import Found, find_folders


@dataclass(frozen=True)
class DatasetSource:
    """A dataset as it was named, with what reading it takes."""

    name: str
    split: str = "train"
    config: str | None = None
    format: str = "auto"
    image_root: str | None = None
    seed: int = 42
    """Draws the pairs of an embedded world."""

    def read(self) -> PreferenceDataset:
        """Returns its rows, read once for all pages; raises what `mmdpo.data.read.read_dataset` raises."""
        return _read(self)


@cache
def _read(source: DatasetSource) -> PreferenceDataset:
    from mmdpo.data.examples import read_examples

    how: dict[str, Any] = dict(config=source.config, format=source.format, image_root=source.image_root)
    return read_examples(source.name, source.split, seed=source.seed, **how)


@dataclass(frozen=True)
class Sources:
    """What the pages show, and where they write."""

    datasets: tuple[DatasetSource, ...] = ()
    runs: tuple[Path, ...] = ()
    """Folders that mmdpo wrote, as they were named; `found` says what lies in them."""
    models: tuple[str, ...] = ()
    """What `mmdpo.models.start.resolve_start` takes."""
    max_models: int | None = None
    """Models in memory at a time; None for as many as fit."""
    decisions: Path = Path("decisions.jsonl")
    """Where flags and drops are written."""
    votes: Path | None = None
    """Where votes are written; None where nobody votes."""
    image_dir: Path | None = None
    """Folder of the images of benchmarks."""
    is_demo: bool = False
    """Whether all pages are shown, even those that name the runs which are voted on."""
    vocabulary: Path | None = None
    """JSON file of words and the object that each names; an embedded world has its own."""
    seed: int = 42
    """Of the run that corrupted images are shown for, unless a folder of `runs` says another."""

    @property
    def is_blind(self) -> bool:
        """Whether only votes are taken: other pages would tell raters whose answers they read."""
        return self.votes is not None and not self.is_demo

    @cached_property
    def found(self) -> Found:
        """What lies in the runs' folders. Raises ReportError for a folder that is none, or holds nothing."""
        return find_folders(self.runs) if self.runs else Found()
