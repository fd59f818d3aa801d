"""Which folder a run may write into, which checkpoint it resumes from, and whether that is of the same run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from xxhash import xxh3_128

from mmdpo.data.items import Items
from mmdpo.files import UnusableFileError
from mmdpo.folders import LOCK, hold_folder, make_folder
from mmdpo.keys import list_deciding
from mmdpo.models.trained import find_added, unwrap_adapter
from mmdpo.models.weights import CheckpointError
from mmdpo.objective import Objective
from mmdpo.records import CHOSEN, REJECTED, response_names
from mmdpo.scoring.digests import describe_model, digest_processor
from mmdpo.scoring.reference import AdapterOff, LiveReference
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed import digest_example, digest_marks
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
    """Makes a folder and holds it for this run; an error before a first checkpoint or model leaves nothing of it there.

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
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(_describe_left(folder)) from stop
            except Exception:
                is_model = any((folder / mark).is_file() for mark in sealing.MODEL_MARKS)
                if not is_model and not sealing.list_checkpoints(folder):
                    _remove_new(folder, before)
                raise
    except Exception:
        for path in made:
            with suppress(OSError):  # another process may be at work there
                path.rmdir()
        raise


def _describe_left(folder: Path) -> str:
    """Returns what an interrupted run has left, and how to go on."""
    checkpoints = sealing.list_checkpoints(folder)
    if not checkpoints:
        return f"no checkpoint is in {folder} yet, and the same command with --resume_from_checkpoint true starts again"
    return f"--resume_from_checkpoint true goes on from {checkpoints[-1]}"


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


WORLD_SIZE = "processes"

WHOLE_ROWS, READ_ROWS = "contents of the rows", "contents of the rows, as far as they are read"
"""Digests of the data, one of which has to be the same: of all columns, which is what earlier versions recorded, and of
the pair with those that the objective reads, which stays where a dataset gains columns."""

MARKS = "masks, boxes and flags of the rows"

ROWS_LOOKED_AT = 1024
"""Rows of a dataset, evenly spread, that stand for all of them."""

VALUES_LOOKED_AT = 64
"""Values of each weight, evenly spread, that stand for all of them."""

SHOWN = 60
"""Longest value that an error quotes, in characters."""

_INCIDENTAL = {
    "base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version",
    "exclude_modules",
}  # fmt: skip
"""Settings of an adapter that no loss depends on: `exclude_modules` is a pattern that versions write in their own ways,
and the layers that it leaves are recorded themselves."""


def describe_run(
    args: MDPOConfig,
    policy: nn.Module,
    reference: LiveReference,
    train_dataset: Any,
    processor: Any,
    *,
    objective: Objective,
    engine: str,
) -> dict[str, Any]:
    """Returns by name, as JSON holds it, what decides the losses of a run.

    `policy` and `reference` are at their start. `engine` is what spreads the model over processes: the files of its
    optimizer are its own.
    """
    read = {CHOSEN, REJECTED, *response_names(objective.cells), *objective.weight_columns}
    # A fresh adapter's values are random.
    skipped = find_added(policy) if isinstance(reference, AdapterOff) else frozenset[str]()
    base: Any = unwrap_adapter(policy)
    described = options_of_losses(args) | {
        WORLD_SIZE: args.world_size,
        "engine": engine,
        "model": describe_model(base),
        "processor": digest_processor(processor),
        "weights of the model": digest_values(policy, skipped),
        "weights of the reference": digest_values(reference.scorer.model, skipped),
        **_describe_data(train_dataset, read),
        **_describe_adapters(policy),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=_to_plain))
    return plain


def options_of_losses(args: MDPOConfig) -> dict[str, Any]:
    """Returns the options that decide losses. The length of the run may change, and the schedule of what is left."""
    options = args.to_dict()
    return {name: options[name] for name in list_deciding("loss") if name in options}


def check_same_run(recorded: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError, which lists them, where what a checkpoint recorded differs from this run.

    Names that only one of them knows (another version's) are not compared.
    """
    digests = ({run[name] for name in (WHOLE_ROWS, READ_ROWS) if name in run} for run in (recorded, now))
    passed = {READ_ROWS, WHOLE_ROWS} if set.intersection(*digests) else {READ_ROWS}
    differing = [name for name in recorded if name in now and name not in passed and recorded[name] != now[name]]
    if not differing:
        return
    lines = [f"  {name}: {_quote(recorded[name])} there, {_quote(now[name])} now" for name in differing]
    remedy = "resume with the recipe.yaml of that run"
    if WORLD_SIZE in differing:
        remedy += ", on as many processes (each has a share of the data, of the random state and of the optimizer)"
    raise CheckpointError(
        "\n".join([f"{where} belongs to another run:", *lines])
        + f"\nEither {remedy}; or start a new run in another output_dir; it may start from that model"
    )


def digest_values(model: nn.Module, skipped: Collection[str] = ()) -> str:
    """Returns the digest of some values of every weight, save those whose names are in `skipped`.

    Of weights that are spread over processes it sees this process's share; it never waits for another one.
    """
    digest, samples = xxh3_128(), list[torch.Tensor]()
    for name, value in sorted(model.named_parameters()):
        if name in skipped:
            continue
        local = value.detach()
        flat = (local.to_local() if hasattr(local, "to_local") else local).flatten()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        samples.append(flat[:: max(1, len(flat) // VALUES_LOOKED_AT)][:VALUES_LOOKED_AT].float())
    for device in sorted({sample.device for sample in samples if not sample.is_meta}, key=str):
        values = torch.cat([sample for sample in samples if sample.device == device])
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _describe_data(dataset: Any, read: Collection[str]) -> dict[str, Any]:
    """Returns how many rows there are and what they say, in all, in the columns that are `read`, and of corruption.

    Images are known by their names or sizes.
    """
    if not isinstance(dataset, Items):
        return {}
    count = len(dataset)
    places = range(0, count, -(-count // ROWS_LOOKED_AT))
    whole, as_read, marks = xxh3_128(), xxh3_128(), xxh3_128()
    for place in places:
        example = dataset.examples[place]
        whole.update(digest_example(example))
        as_read.update(digest_example(example, read))
        marks.update(digest_marks(example))
    digests = {WHOLE_ROWS: whole, READ_ROWS: as_read, MARKS: marks}
    return {"rows": count} | {name: digest.hexdigest() for name, digest in digests.items()}


def _describe_adapters(policy: nn.Module) -> dict[str, Any]:
    adapters: Mapping[str, Any] = getattr(policy, "peft_config", None) or {}
    layers = xxh3_128("\n".join(sorted(find_added(policy))).encode()).hexdigest()
    return ({"adapter's layers": layers} if adapters else {}) | {
        f"adapter's {key}": value
        for adapter in adapters.values()
        for key, value in adapter.to_dict().items()
        if key not in _INCIDENTAL
    }


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return type(value).__name__ if " at 0x" in repr(value) else str(value)


def _quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
