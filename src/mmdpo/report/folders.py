"""What lies in the folders that a report is asked about, and what the runs in them are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdpo.files import clean_text
from mmdpo.report.shape import ReportError

RECIPE, TRAINER_STATE = "recipe.yaml", "trainer_state.json"
RESULT, SCORES, ANSWERS = "result.json", "scores.jsonl", "answers.jsonl"
RESULTS, EXAMPLES = "results.json", "examples.json"
STUDY, TRIALS, DIAGNOSIS = "study.yaml", "trials", "diagnosis.json"
LOOKED_FOR = (
    f"{RECIPE} or {TRAINER_STATE} (mmdpo train), {RESULT} (mmdpo eval), {RESULTS} with {EXAMPLES} (mmdpo quickstart), "
    f"{STUDY} (mmdpo study), {DIAGNOSIS} (mmdpo diagnose)"
)
WHOLE = {"runs": "run of mmdpo train", "studies": "study", "quickstarts": "quickstart"}
"""Kinds of folders that are reported only by their own name."""
CHECKPOINT_NAME = re.compile("checkpoint-[0-9]+")
DEPTH = 3
"""Levels below a folder that are searched for results."""
_PASSED_OVER = ("sample_answers", "runs", "scenes", "pictures", TRIALS)


@dataclass(frozen=True)
class Place:
    """A folder of one kind."""

    path: Path
    label: str


@dataclass(frozen=True)
class Found:
    """Folders by kind, in the order in which they were named."""

    runs: tuple[Place, ...] = ()
    evaluations: tuple[Place, ...] = ()
    quickstarts: tuple[Place, ...] = ()
    studies: tuple[Place, ...] = ()
    diagnoses: tuple[Place, ...] = ()
    left_out: tuple[str, ...] = ()
    """What lies in the folders and is not reported, with the reason."""


def find_folders(folders: Sequence[str | Path]) -> Found:
    """Returns what the folders are; results inside a run, or inside a folder of results, are found too.

    Raises ReportError for a folder that does not exist or is of no kind, saying what was looked for.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    found: dict[str, list[Place]] = {}
    left_out: list[str] = []
    for path, label in zip(paths, distinct_labels(paths), strict=True):
        if not path.is_dir():
            raise ReportError(f"{path}: no such folder")
        places = list(_look(path, label, left_out))
        if not places:
            raise ReportError(
                f"{path}: nothing to report on; looked there, and {DEPTH} levels down (not in folders called "
                f"{', '.join(_PASSED_OVER)}), for {LOOKED_FOR}" + "".join(f"; {line}" for line in left_out)
            )
        for kind, place in places:
            found.setdefault(kind, []).append(place)
    return Found(left_out=tuple(left_out), **{kind: tuple(of) for kind, of in found.items()})


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
    own = _kind_of_whole(path)
    if own is not None:
        yield own, Place(path, label)
    if own in ("studies", "quickstarts"):
        return
    inside = [folder for folder in _walk(path, DEPTH, label, left_out) if folder != path]
    for folder in inside:
        kind = None if CHECKPOINT_NAME.fullmatch(folder.name) else _kind_of_whole(folder)
        if kind is not None:
            where = clean_text(folder.relative_to(path).as_posix())
            left_out.append(f"{label}/{where}: a {WHOLE[kind]} inside {label}; name its folder to report on it")
    for kind, files in (("evaluations", (RESULT, SCORES)), ("diagnoses", (DIAGNOSIS,))):
        if _holds(path, *files):
            yield kind, Place(path, label)
        places = [folder for folder in inside if _holds(folder, *files)]
        # Two results of one benchmark in one run, say of two checkpoints, are told apart by where they lie.
        ambiguous = len({folder.name for folder in places}) < len(places)
        for folder in places:
            where = clean_text(folder.parent.relative_to(path).as_posix())
            yield kind, Place(folder, f"{label}/{where}" if ambiguous and where != "." else label)


def _kind_of_whole(path: Path) -> str | None:
    if _holds(path, STUDY) or (path / TRIALS).is_dir():
        return "studies"
    if _holds(path, RESULTS, EXAMPLES):
        return "quickstarts"
    return "runs" if _holds(path, RECIPE, TRAINER_STATE) or any(path.glob(f"checkpoint-*/{TRAINER_STATE}")) else None


def _holds(path: Path, *files: str) -> bool:
    return any((path / name).is_file() for name in files)


def _walk(path: Path, depth: int, label: str, left_out: list[str]) -> Iterator[Path]:
    """Yields a folder and those inside it, `depth` levels deep; says which cannot be opened or lie deeper."""
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
