"""Reads run folders: the results, the scenes shown in the report, and what each variant's trainer logged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    image: Path
    truth: tuple[str, ...]
    setting: str
    answers: Mapping[str, Answer]
    corrupted_image: Path | None = None


@dataclass(frozen=True)
class Run:
    """All that a report needs to know of a run folder."""

    folder: Path
    results: Mapping[str, Any]
    """The content of results.json."""
    scenes: tuple[ShownScene, ...]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    """For each variant that was trained, its trainer's `log_history`."""


def read_run(run_dir: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        RunFolderError: results.json or examples.json is missing or incomplete, a picture that examples.json names is
            missing, or a file is not JSON.
    """
    folder = Path(run_dir)
    results = read_results(folder)
    return Run(folder, results, read_scenes(folder), read_histories(folder, results["variants"]))


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """Reads results.json and checks that it holds what tables and text need.

    Raises:
        RunFolderError: the file is missing, not JSON, or lacks a key.
    """
    path = Path(run_dir) / RESULTS
    results = _read_json(path)
    if not isinstance(results, dict):
        raise RunFolderError(f"{path}: expected an object with the key 'variants', found {type(results).__name__}")
    for key in ("variants", "scenes", "seed"):
        if key not in results:
            raise RunFolderError(f"{path}: the key {key!r} is missing; repeat the run that wrote this file")
    return results


def read_scenes(run_dir: str | Path) -> tuple[ShownScene, ...]:
    """Reads examples.json; paths of pictures in it are relative to the run folder.

    Raises:
        RunFolderError: the file is missing, not JSON, lacks a key, or names a picture that is not there.
    """
    path = Path(run_dir) / EXAMPLES
    records = _read_json(path)
    scenes = []
    for number, record in enumerate(records):
        try:
            scene = _scene_from(record, path.parent)
        except KeyError as error:
            raise RunFolderError(f"{path}, example {number}: the key {error} is missing") from error
        for image in (scene.image, scene.corrupted_image):
            if image is not None and not image.is_file():
                raise RunFolderError(f"{path}, example {number}: there is no picture {image}")
        scenes.append(scene)
    return tuple(scenes)


def read_histories(run_dir: str | Path, variants: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Reads `log_history` of each variant that has a trainer_state.json; one that was not trained has none.

    Raises:
        RunFolderError: a trainer_state.json is not JSON or has no `log_history`.
    """
    histories = {}
    for variant in variants:
        path = Path(run_dir) / variant / TRAINER_STATE
        if not path.is_file():
            continue
        state = _read_json(path)
        if "log_history" not in state:
            raise RunFolderError(f"{path}: the key 'log_history' is missing; is this a trainer's state?")
        histories[variant] = state["log_history"]
    return histories


def _scene_from(record: Mapping[str, Any], folder: Path) -> ShownScene:
    corrupted = record.get("corrupted_image")
    return ShownScene(
        image=folder / record["image"],
        truth=tuple(record["truth"]),
        setting=record["setting"],
        answers={
            variant: Answer(answer["text"], tuple(answer["hallucinated"]), tuple(answer["missed"]))
            for variant, answer in record["answers"].items()
        },
        corrupted_image=None if corrupted is None else folder / corrupted,
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: no such file; give the folder of a finished run") from error
    except ValueError as error:
        raise RunFolderError(f"{path}: not JSON ({error}); the run may have been cut short, repeat it") from error
