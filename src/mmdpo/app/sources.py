"""What an app was opened on: datasets, runs, models, and the files that it writes. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

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

    def read(self) -> PreferenceDataset:
        """Returns its rows; raises what `mmdpo.data.read.read_dataset` raises."""
        from mmdpo.training.rows import read_examples

        return read_examples(self.name, self.split, config=self.config, format=self.format, image_root=self.image_root)


@dataclass(frozen=True)
class Sources:
    """What the pages show, and where they write."""

    datasets: tuple[DatasetSource, ...] = ()
    runs: tuple[Path, ...] = ()
    """Folders that mmdpo wrote, as they were named; `found` says what lies in them."""
    models: tuple[str, ...] = ()
    """What `mmdpo.models.start.resolve_start` takes."""
    decisions: Path = field(default=Path("decisions.jsonl"))
    """Where flags and drops are written."""
    votes: Path | None = None
    """Where votes are written; None where nobody votes."""
    image_dir: Path | None = None
    """Folder of the images of benchmarks."""
    vocabulary: Path | None = None
    """JSON file of words and the object that each names; an embedded world has its own."""

    @cached_property
    def found(self) -> Found:
        """What lies in the runs' folders. Raises ReportError for a folder that is none, or holds nothing."""
        return find_folders(self.runs) if self.runs else Found()
