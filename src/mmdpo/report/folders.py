"""What lies in the folders that a report is asked about, and what the runs in them are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdpo.report.runs import EXAMPLES, RESULTS, TRAINER_STATE, RunFolderError

RECIPE, STUDY, TRIALS, DIAGNOSIS, RESULT = "recipe.yaml", "study.yaml", "trials", "diagnosis.json", "result.json"
SCORES, ANSWERS = "scores.jsonl", "answers.jsonl"
LOOKED_FOR = (
    f"{RECIPE} or {TRAINER_STATE} (mmdpo train), {RESULT} (mmdpo eval), {RESULTS} with {EXAMPLES} (mmdpo quickstart), "
    f"{STUDY} (mmdpo study), {DIAGNOSIS} (mmdpo diagnose)"
)
DEPTH = 3
"""Folders of results are looked for so many levels deep."""
_PASSED_OVER = ("sample_answers", "runs", "scenes", "pictures", TRIALS)


@dataclass(frozen=True)
class Place:
    """A folder of one kind."""

    path: Path
    label: str


@dataclass(frozen=True)
class Found:
    """Folders by kind, in the order in which they were named."""

    runs: tuple[Place, ...]
    evaluations: tuple[Place, ...]
    quickstarts: tuple[Place, ...]
    studies: tuple[Place, ...]
    diagnoses: tuple[Place, ...]


def find_folders(folders: Sequence[str | Path]) -> Found:
    """Says what the folders are; results inside a run, or inside a folder of results, are found too.

    Raises RunFolderError for a folder that does not exist or is of no kind, saying what was looked for.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    found: dict[str, list[Place]] = {}
    for path, label in zip(paths, distinct_labels(paths), strict=True):
        if not path.is_dir():
            raise RunFolderError(f"{path}: no such folder")
        places = list(_look(path, label))
        if not places:
            raise RunFolderError(
                f"{path}: nothing to report on; looked there, and {DEPTH} levels down, for {LOOKED_FOR}"
            )
        for kind, place in places:
            found.setdefault(kind, []).append(place)
    kinds = ("run", "evaluation", "quickstart", "study", "diagnosis")
    return Found(*(tuple(found.get(kind, ())) for kind in kinds))


def distinct_labels(paths: Sequence[Path]) -> list[str]:
    """Returns the last names of paths, as few of them as tell the paths apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _look(path: Path, label: str) -> Iterator[tuple[str, Place]]:
    if (path / STUDY).is_file() or (path / TRIALS).is_dir():
        yield "study", Place(path, label)
        return
    if (path / RESULTS).is_file() or (path / EXAMPLES).is_file():
        yield "quickstart", Place(path, label)
        return
    if any((path / name).is_file() for name in (RECIPE, TRAINER_STATE)) or any(
        path.glob(f"checkpoint-*/{TRAINER_STATE}")
    ):
        yield "run", Place(path, label)
    inside = [folder for folder in _walk(path, DEPTH) if folder != path]
    for kind, is_one in (("evaluation", _is_evaluation), ("diagnosis", _is_diagnosis)):
        if is_one(path):
            yield kind, Place(path, label)
        places = [folder for folder in inside if is_one(folder)]
        # Two results of one benchmark in one run, say of two checkpoints, are told apart by where they lie.
        ambiguous = len({folder.name for folder in places}) < len(places)
        for folder in places:
            where = folder.parent.relative_to(path).as_posix()
            yield kind, Place(folder, f"{label}/{where}" if ambiguous and where != "." else label)


def _walk(path: Path, depth: int) -> Iterator[Path]:
    yield path
    for folder in sorted(path.iterdir()) if depth else ():
        if folder.is_dir() and folder.name not in _PASSED_OVER and folder.name[0] not in "._":
            yield from _walk(folder, depth - 1)


def _is_evaluation(path: Path) -> bool:
    return any((path / name).is_file() for name in (RESULT, SCORES))


def _is_diagnosis(path: Path) -> bool:
    return (path / DIAGNOSIS).is_file()
