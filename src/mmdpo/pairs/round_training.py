"""The training of a round: its recipe, what it was begun with, and whether it can go on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.files import digest_of, read_json, read_yaml, write_json
from mmdpo.folders import hold_folder
from mmdpo.keys import RecipeError, explain_unknown, find_recipe, known_keys, list_deciding
from mmdpo.pairs.gate import IterateError

TRAINING, TRAINED = "training.json", "trained"
"""What a round's training was begun with, and the mark of one that is done."""


def read_settings(path: Path) -> dict[str, Any]:
    """Returns what a YAML file holds; raises IterateError for one that cannot be read or holds no keys."""
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise IterateError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise IterateError(f"{path} holds {type(content).__name__} and no keys")
    return content


def read_recipe(path: Path) -> dict[str, Any]:
    """Returns what a recipe holds, by path or by name.

    Raises IterateError for no recipe, or one with a key that is none, which would else end the first round after all
    its answers were paid for.
    """
    try:
        content = read_settings(find_recipe(str(path)))
    except RecipeError as error:
        raise IterateError(str(error).replace("--config", "--train", 1)) from error
    for key in content:
        if key not in known_keys():
            raise IterateError(f"{path}: unknown key {key!r}{explain_unknown(str(key), known_keys())}")
    return content


def check_training(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Writes what the training of a round in `folder` is begun with.

    Raises IterateError where it was begun with something else that decides its model: it would be taken for the model
    of this recipe and of these pairs.
    """
    run, path, data = folder / "run", folder / TRAINING, Path(recipe["dataset_name"])
    digest = hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else ""
    is_done = (folder / TRAINED).is_file()
    before = read_json(path) if path.is_file() and (is_done or run.is_dir()) else {}
    keys = ["model_name_or_path", *list_deciding("loss", "content")]
    keys += list_deciding("length") if is_done else ()  # a longer training may go on
    was = before.get("recipe", recipe)
    said = [
        f"{key} was {was.get(key)!r} and is {recipe.get(key)!r}"
        for key in keys
        if digest_of(was.get(key)) != digest_of(recipe.get(key))
    ]
    said += ["its pairs were others"] if before.get("pairs", digest) != digest else []
    if said:
        raise IterateError(
            f"{run} was trained otherwise ({'; '.join(said)}): put that back, or remove {folder}, and the same command "
            "makes this round again"
        )
    write_json(path, {"recipe": dict(recipe), "pairs": digest})


def is_finished(run: Path) -> bool:
    """Says whether a run folder holds all that `mmdpo train` leaves; the card comes last."""
    from mmdpo.training.durable.sealing import MODEL_MARKS

    has_model = any((run / name).is_file() for name in MODEL_MARKS)
    return has_model and all((run / name).is_file() for name in ("train_results.json", "README.md"))


def can_go_on(run: Path) -> bool:
    """Says whether a training that was killed goes on, or begins again, in its folder.

    One that keeps no checkpoints and was killed while its model was written does not: what it has left is removed.
    Raises FolderInUseError where it is still at work.
    """
    from mmdpo.training.durable.sealing import MODEL_MARKS, list_checkpoints

    if not run.is_dir():
        return False
    if list_checkpoints(run) or not any((run / name).is_file() for name in MODEL_MARKS):
        return True
    with hold_folder(run):
        shutil.rmtree(run)
    return False
