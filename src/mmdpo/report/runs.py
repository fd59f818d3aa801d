"""Reads run folders: the results, the scenes shown in the report, and what each variant's trainer logged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.files import Unshown, find_inside, read_json
from mmdpo.report.shape import fit

RESULTS = "results.json"
EXAMPLES = "examples.json"
TRAINER_STATE = "trainer_state.json"


class RunFolderError(ValueError):
    """A run folder that cannot be reported on: says which file and key, and how to mend it."""


@dataclass(frozen=True)
class Span:
    """A piece of an answer, all of it hallucinated or none of it."""

    text: str
    hallucinated: bool


@dataclass(frozen=True)
class Answer:
    """What one variant said about one scene."""

    text: str
    hallucinated: tuple[str, ...] = ()
    """Objects named that are not in the scene."""
    missed: tuple[str, ...] = ()
    """Objects of the scene that were not named."""
    remark: str | None = None
    """What else there is to be said; None where both lists are known to be whole."""
    reasons: str = ""
    """What a judge wrote about the answer."""

    def spans(self) -> list[Span]:
        """Splits the text at the hallucinated words, whole words only; the spans joined give the text again."""
        words = sorted((word for word in self.hallucinated if word), key=len, reverse=True)
        if not words:
            return [Span(self.text, False)]
        pattern = "|".join(re.escape(word) for word in words)
        pieces = re.split(rf"(?<!\w)({pattern})(?!\w)", self.text, flags=re.IGNORECASE)
        # A split with one group alternates between text and separator.
        return [Span(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]

    def note(self) -> str:
        """Says in words what the marks show, for readers who do not see them."""
        found = (("hallucinated", self.hallucinated), ("missed", self.missed))
        said = [f"{kind}: {', '.join(words)}" for kind, words in found if words]
        if self.remark is not None:
            return " · ".join((*said, *([self.remark] if self.remark else [])))
        return " · ".join(said) or "nothing hallucinated, nothing missed"


@dataclass(frozen=True)
class ShownScene:
    """A scene of the report, with the answer of each variant."""

    image: Path | Unshown
    truth: tuple[str, ...]
    setting: str
    answers: Mapping[str, Answer]
    corrupted_image: Path | Unshown | None = None


@dataclass(frozen=True)
class Run:
    """All that a report needs to know of a run folder."""

    folder: Path
    results: Mapping[str, Any]
    """The content of results.json."""
    scenes: tuple[ShownScene, ...]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    """For each variant that was trained, its trainer's `log_history`."""


_SCORES = {str: {str: (float, None)}}
_EXAMPLE = {
    "image": str,
    "corrupted_image": (str, None),
    "truth": [str],
    "setting": str,
    "answers": {str: {"text": str, "hallucinated": [str], "missed": [str]}},
}


def read_run(run_dir: str | Path, problems: list[str] | None = None) -> Run:
    """Reads a run folder.

    What cannot be used is left out and named in `problems`, where such a list is given, and is an error where not.

    Raises:
        RunFolderError: results.json cannot be read or is incomplete; without `problems` also where examples.json or a
            trainer's log is, or a picture that examples.json names is missing.
    """
    folder = Path(run_dir)
    results = read_results(folder, problems)
    try:
        scenes = read_scenes(folder, problems)
    except RunFolderError as error:
        if problems is None:
            raise
        problems.append(str(error))
        scenes = ()
    return Run(folder, results, scenes, read_histories(folder, results["variants"], problems))


def read_results(run_dir: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Reads results.json and checks that it holds what tables and text need.

    Raises:
        RunFolderError: the file is missing, not JSON, or lacks a key; without `problems` also a score of a wrong type.
    """
    path = Path(run_dir) / RESULTS
    results = _read_json(path)
    if not isinstance(results, dict):
        raise RunFolderError(f"{path}: expected an object with the key 'variants', found {type(results).__name__}")
    for key in ("variants", "scenes", "seed"):
        if key not in results:
            raise RunFolderError(f"{path}: the key {key!r} is missing; repeat the run that wrote this file")
    return dict(_fit(results, {"variants": _SCORES}, path, problems))


def read_scenes(run_dir: str | Path, problems: list[str] | None = None) -> tuple[ShownScene, ...]:
    """Reads examples.json; paths of pictures in it are relative to the run folder, and lie inside it.

    Raises:
        RunFolderError: the file is missing or not JSON; without `problems` also where it lacks a key, or names a
            picture that is not there.
    """
    path = Path(run_dir) / EXAMPLES
    records = _fit(_read_json(path), [_EXAMPLE], path, problems)
    scenes = []
    for number, record in enumerate(records):
        try:
            scene = _scene_from(record, path.parent)
        except KeyError as error:
            _object(f"{path}, example {number}: the key {error} is missing", problems)
            continue
        if problems is None:
            for image in (scene.image, scene.corrupted_image):
                if isinstance(image, Unshown):
                    raise RunFolderError(f"{path}, example {number}: {image.reason}")
                if image is not None and not image.is_file():
                    raise RunFolderError(f"{path}, example {number}: there is no picture {image}")
        scenes.append(scene)
    return tuple(scenes)


def read_histories(
    run_dir: str | Path, variants: Mapping[str, Any], problems: list[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Reads `log_history` of each variant that has a trainer_state.json; one that was not trained has none.

    Raises:
        RunFolderError: without `problems`, where a trainer_state.json is not JSON or has no `log_history`.
    """
    histories = {}
    for variant in variants:
        path = find_inside(Path(run_dir), f"{variant}/{TRAINER_STATE}")
        if isinstance(path, Unshown) or not path.is_file():
            continue
        try:
            state = _read_json(path)
            if not isinstance(state, dict) or "log_history" not in state:
                raise RunFolderError(f"{path}: the key 'log_history' is missing; is this a trainer's state?")
            histories[variant] = _fit(state["log_history"], [dict], path, problems)
        except RunFolderError as error:
            _object(str(error), problems)
    return histories


def _object(said: str, problems: list[str] | None) -> None:
    """Notes what cannot be used, or raises RunFolderError where nobody takes notes."""
    if problems is None:
        raise RunFolderError(said)
    problems.append(said)


def _fit(value: Any, shape: Any, path: Path, problems: list[str] | None) -> Any:
    found: list[str] = []
    fitted = fit(value, shape, str(path), found)
    for said in found:
        _object(said, problems)
    return fitted


def _scene_from(record: Mapping[str, Any], folder: Path) -> ShownScene:
    corrupted = record.get("corrupted_image")
    return ShownScene(
        image=find_inside(folder, record["image"]),
        truth=tuple(record["truth"]),
        setting=record["setting"],
        answers={
            variant: Answer(answer["text"], tuple(answer["hallucinated"]), tuple(answer["missed"]))
            for variant, answer in record["answers"].items()
        },
        corrupted_image=None if corrupted is None else find_inside(folder, corrupted),
    )


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: no such file; give the folder of a finished run") from error
    except ValueError as error:
        raise RunFolderError(f"{path}: not JSON ({error}); the run may have been cut short, repeat it") from error
