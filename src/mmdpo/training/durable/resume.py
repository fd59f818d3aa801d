"""Which folder a run may write into, and which checkpoint it resumes from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from mmdpo.files import LOCK, UnusableFileError, hold_folder, make_folder
from mmdpo.training.config import MDPOConfig
from mmdpo.training.durable import sealing

logger = logging.getLogger(__name__)

RESOLVED_RECIPE = "recipe.yaml"
"""File in the run folder with every key and the value that the run used; `--config` takes it."""

SKIPPED_ROWS = "skipped_rows.jsonl"
"""File in the run folder that lists the rows which `on_bad_row: skip` left out."""


class RunFolderError(ValueError):
    """An output folder that a run must not write into."""


def check_run_folder(folder: Path, remedy: str) -> None:
    """Raises RunFolderError, which names the remedy, for a folder that holds something already."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another output_dir")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise RunFolderError(f"{folder} holds a run already: {remedy}")


def prepare_run_folder(folder: str | Path, remedy: str) -> Path:
    """Makes an empty run folder and returns it.

    Raises RunFolderError for one that holds something already, or that cannot be made or written into.
    """
    path = Path(folder)
    check_run_folder(path, remedy)
    _make_writable(path)
    return path


def is_resuming(args: MDPOConfig) -> bool:
    """Returns whether `resume_from_checkpoint` asks for a checkpoint; recipes and flags may write `false`."""
    return str(args.resume_from_checkpoint or "false").lower() not in ("false", "no")


def find_checkpoint(args: MDPOConfig) -> str | None:
    """Returns the checkpoint that `resume_from_checkpoint` means: a folder, or with `true` the last one that is whole.

    With `true` a run that has no checkpoint yet starts from the beginning, so that a job that is queued again can
    always pass it. Raises CheckpointError for a checkpoint that is not whole, and RunFolderError where the folder holds
    anything but the beginning of a run.
    """
    if not is_resuming(args):
        return None
    wanted = str(args.resume_from_checkpoint)
    if wanted.lower() not in ("true", "yes"):
        sealing.read_record(Path(wanted))
        return wanted
    folder = Path(args.output_dir)
    last = sealing.find_last_whole(folder)
    if last is not None:
        return str(last)
    entries = list(folder.iterdir()) if folder.is_dir() else []
    names = {path.name for path in entries if not sealing.is_unfinished(path)}
    is_finished = any(name in sealing.MODEL_MARKS or name.endswith(".safetensors") for name in names)
    if not is_finished and (RESOLVED_RECIPE in names or names <= {SKIPPED_ROWS, sealing.UNFINISHED, LOCK}):
        logger.info("%s holds no checkpoint yet: training starts from the beginning", folder)
        return None
    raise RunFolderError(
        f"{folder} holds no checkpoint to resume from, and not the beginning of a run either (it holds "
        f"{', '.join(sorted(names)[:8])}): choose another output_dir, or remove it"
    )


@contextmanager
def own_run_folder(folder: Path, *, is_main: bool) -> Iterator[None]:
    """Makes a folder and holds it for this run; an error before its first checkpoint leaves nothing of the run there.

    What a killed run left unfinished is removed. Raises RunFolderError for a folder that cannot be written into,
    FolderInUseError for one that another run holds.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _make_writable(folder)  # asked for now: a reference pass may take hours
        with hold_folder(folder) if is_main else nullcontext():
            before = set(folder.iterdir())
            if is_main:
                sealing.clear_unfinished(folder)
            try:
                yield
            except Exception:
                if not sealing.list_checkpoints(folder):
                    _remove_new(folder, before)
                raise
    except Exception:
        for path in made:
            with suppress(OSError):  # another process may be at work there
                path.rmdir()
        raise


def _remove_new(folder: Path, before: Collection[Path]) -> None:
    """Removes what was made in a folder. Other processes may do the same, and none of them may fail over it."""
    for entry in set(folder.iterdir()) - {*before, folder / LOCK}:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _make_writable(folder: Path) -> None:
    try:
        make_folder(folder)
    except UnusableFileError as error:
        raise RunFolderError(f"output_dir: {error}") from error
