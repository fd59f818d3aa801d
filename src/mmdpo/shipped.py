"""Files that come with the package and are taken by name: recipes and studies. One prints them to make one's own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from mmdpo.registry import name_nearest

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Shipped:
    """The files below a folder of the package, by their paths without the suffix."""

    folder: str
    """Where they are, below the package."""
    kind: str
    """What messages call such a file."""
    suffixes: tuple[str, ...] = SUFFIXES

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(__file__).parent / self.folder

    def names(self, within: str = "") -> tuple[str, ...]:
        """Returns the names of the files of a folder, sorted; those of its subfolders are not among them."""
        found = (path for path in (self.root / within).iterdir() if path.suffix in self.suffixes)
        return tuple(sorted(path.relative_to(self.root).with_suffix("").as_posix() for path in found))

    def all_names(self) -> tuple[str, ...]:
        """Returns the names of all files, first those of the folder itself."""
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        return (*self.names(), *(name for folder in folders for name in self.names(folder)))

    def find(self, name_or_path: str) -> Path:
        """Returns the file of that path, or else the one of the package of that name. Raises ValueError for neither."""
        path, known = Path(name_or_path), self.all_names()
        if path.is_file():
            return path
        if name_or_path in known:
            return next(file for suffix in self.suffixes if (file := self.root / f"{name_or_path}{suffix}").is_file())
        if path.suffix in self.suffixes:
            comes = f"; {path.stem!r} comes with mmdpo: give its name alone" if path.stem in known else ""
            raise ValueError(f"there is no file {name_or_path}{comes}")
        nearest = name_nearest(name_or_path, known)
        raise ValueError(
            f"there is no {self.kind} {name_or_path!r}{nearest} There are {', '.join(known)}; or give a file"
        )

    def about(self, name: str) -> str:
        """Returns the comment that a file begins with, a line each."""
        lines = self.find(name).read_text(encoding="utf-8").splitlines()
        comments = takewhile(lambda line: line.startswith("#"), (line for line in lines if not line.startswith("#!")))
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comments)


RECIPES = Shipped("recipes", "recipe", (*SUFFIXES, ".sbatch"))
STUDIES = Shipped("study/studies", "study")
