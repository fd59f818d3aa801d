"""What comes by name: a file of one of our packages, somebody else's as `package.module:NAME`, versions of packages."""

import difflib
import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Registry:
    """The things of one kind: the files of a package of mmdpo, but those that start with an underscore, by name."""

    package: str
    """The package below `mmdpo`, such as `data.formats`."""
    kind: str
    """What messages call such a thing."""
    further: str = ""
    """What else may be named, for messages."""

    def names(self) -> tuple[str, ...]:
        """Returns the names, sorted, without importing anything."""
        package = sys.modules.get(f"mmdpo.{self.package}")  # one that is imported may have further folders
        here = Path(__file__).parent / self.package.replace(".", "/")
        folders = [str(here)] if package is None else package.__path__
        modules = pkgutil.iter_modules(folders)
        return tuple(sorted(module.name for module in modules if not module.name.startswith("_")))

    def about(self, name: str) -> str:
        """Returns the first line of the docstring of a module of this package, which is read and not imported."""
        path = Path(__file__).parent / self.package.replace(".", "/") / f"{name}.py"
        with path.open(encoding="utf-8") as file:
            return file.readline().strip().strip('"')

    def load(self, name: str) -> Any:
        """Returns the module of that name. Raises ValueError for an unknown name, saying the nearest and all."""
        if name not in self.names():
            raise ValueError(f"unknown {self.kind} {name!r}{name_nearest(name, self.names())} There are {self.list()}")
        return import_module(f"mmdpo.{self.package}.{name}")

    def list(self) -> str:
        """Returns what may be named, as a message says it."""
        return ", ".join([*self.names(), *filter(None, [self.further])])


def is_elsewhere(name: str) -> bool:
    """Says whether a name means somebody else's thing, whose code runs when it is loaded."""
    return ":" in name


def load_elsewhere(name: str, kind: str, *, runs_others: bool = True) -> tuple[Any, Any]:
    """Returns the module and the object that `package.module:NAME` means; NAME may be a submodule.

    Raises ValueError where there is none, and without `runs_others`, for recipes of somebody else that are only read.
    """
    if not runs_others:
        raise ValueError(f"{name!r} is code outside mmdpo, which is not run here")
    package, _, attribute = name.partition(":")
    try:
        module = import_module(package)
        found = getattr(module, attribute, None)
        return module, import_module(f"{package}.{attribute}") if found is None else found
    except (ImportError, ValueError) as error:
        why: object = error
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing == f"{package}.{attribute}":
            why = f"{package} has no {attribute}{name_nearest(attribute, vars(module))}".removesuffix(".")
        elif missing == package.partition(".")[0]:
            why = f"{error}; if it is a file of yours, put its folder into PYTHONPATH"
        raise ValueError(f"cannot load the {kind} {name!r} (package.module:NAME): {why}") from error


def list_versions(*packages: str) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def name_nearest(word: object, known: Iterable[str]) -> str:
    """Returns how an error message goes on after an unknown word: `; did you mean 'x'?`, or a full stop."""
    found = difflib.get_close_matches(str(word), list(known), n=3, cutoff=0.5)
    # Of names equally near, two letters in the wrong order are the likelier slip: mpdo means mdpo, not mfpo.
    found.sort(key=lambda other: sorted(other) != sorted(str(word)))
    return f"; did you mean {found[0]!r}?" if found else "."
