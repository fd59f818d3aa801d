"""What lies in the folders that a report is asked about, and what the runs in them are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdpo.files import clean_text
from mmdpo.report.runs import EXAMPLES, RESULTS, TRAINER_STATE, RunFolderError

RECIPE, STUDY, TRIALS, DIAGNOSIS, RESULT = "recipe.yaml", "study.yaml", "trials", "diagnosis.json", "result.json"
SCORES, ANSWERS = "scores.jsonl", "answers.jsonl"
LOOKED_FOR = (
    f"{RECIPE} or {TRAINER_STATE} (mmdpo train), {RESULT} (mmdpo eval), {RESULTS} with {EXAMPLES} (mmdpo quickstart), "
    f"{STUDY} (mmdpo study), {DIAGNOSIS} (mmdpo diagnose)"
)
WHOLE = {"run": "run of mmdpo train", "study": "study", "quickstart": "quickstart"}
CHECKPOINT_NAME = re.compile("checkpoint-[0-9]+")
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
    left_out: tuple[str, ...] = ()
    """What lies in the folders and is not reported, with the reason."""


def find_folders(folders: Sequence[str | Path]) -> Found:
    """Says what the folders are; results inside a run, or inside a folder of results, are found too.

    Raises RunFolderError for a folder that does not exist or is of no kind, saying what was looked for.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    found: dict[str, list[Place]] = {}
    left_out: list[str] = []
    for path, label in zip(paths, distinct_labels(paths), strict=True):
        if not path.is_dir():
            raise RunFolderError(f"{path}: no such folder")
        places = list(_look(path, label, left_out))
        if not places:
            raise RunFolderError(
                f"{path}: nothing to report on; looked there, and {DEPTH} levels down (not in folders called "
                f"{', '.join(_PASSED_OVER)}), for {LOOKED_FOR}" + "".join(f"; {line}" for line in left_out)
            )
        for kind, place in places:
            found.setdefault(kind, []).append(place)
    kinds = ("run", "evaluation", "quickstart", "study", "diagnosis")
    runs, evaluations, quickstarts, studies, diagnoses = (tuple(found.get(kind, ())) for kind in kinds)
    return Found(runs, evaluations, quickstarts, studies, diagnoses, tuple(left_out))


def distinct_labels(paths: Sequence[Path]) -> list[str]:
    """Returns the last names of paths, as few of them as tell the paths apart, and as text that can be shown."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return [clean_text(label) for label in labels]


def number_at_end(path: Path) -> int:
    """Returns the number after the last hyphen of a folder's name, as of `checkpoint-100`; -1 where there is none."""
    digits = path.name.rpartition("-")[2]
    return int(digits) if re.fullmatch("[0-9]{1,18}", digits) else -1


def _look(path: Path, label: str, left_out: list[str]) -> Iterator[tuple[str, Place]]:
    kind_of_whole = _kind_of_whole(path)
    if kind_of_whole is not None:
        yield kind_of_whole, Place(path, label)
    if kind_of_whole in ("study", "quickstart"):
        return
    inside = [folder for folder in _walk(path, DEPTH, label, left_out) if folder != path]
    for folder in inside:
        kind = None if CHECKPOINT_NAME.fullmatch(folder.name) else _kind_of_whole(folder)
        if kind is not None:
            where = clean_text(folder.relative_to(path).as_posix())
            left_out.append(f"{label}/{where}: a {WHOLE[kind]} inside {label}; name its folder to report on it")
    for kind, is_one in (("evaluation", _is_evaluation), ("diagnosis", _is_diagnosis)):
        if is_one(path):
            yield kind, Place(path, label)
        places = [folder for folder in inside if is_one(folder)]
        # Two results of one benchmark in one run, say of two checkpoints, are told apart by where they lie.
        ambiguous = len({folder.name for folder in places}) < len(places)
        for folder in places:
            where = clean_text(folder.parent.relative_to(path).as_posix())
            yield kind, Place(folder, f"{label}/{where}" if ambiguous and where != "." else label)


def _kind_of_whole(path: Path) -> str | None:
    """Returns what a folder is that is reported by its own name alone, None for one that is no such."""
    if (path / STUDY).is_file() or (path / TRIALS).is_dir():
        return "study"
    if (path / RESULTS).is_file() or (path / EXAMPLES).is_file():
        return "quickstart"
    is_run = any((path / name).is_file() for name in (RECIPE, TRAINER_STATE))
    return "run" if is_run or any(path.glob(f"checkpoint-*/{TRAINER_STATE}")) else None


def _walk(path: Path, depth: int, label: str, left_out: list[str]) -> Iterator[Path]:
    """Yields a folder and those inside it, so many levels deep; says which cannot be opened or lie deeper."""
    try:
        inside = sorted(folder for folder in path.iterdir() if folder.is_dir())
    except OSError as error:
        left_out.append(f"{label}: {clean_text(str(path))} cannot be opened ({error.strerror})")
        return
    yield path
    inside = [folder for folder in inside if folder.name not in _PASSED_OVER and folder.name[0] not in "._"]
    if inside and not depth:
        left_out.append(f"{label}: {clean_text(str(path))} holds folders below {DEPTH} levels, not looked into")
        return
    for folder in inside:
        yield from _walk(folder, depth - 1, label, left_out)


def _is_evaluation(path: Path) -> bool:
    return any((path / name).is_file() for name in (RESULT, SCORES))


def _is_diagnosis(path: Path) -> bool:
    return (path / DIAGNOSIS).is_file()
