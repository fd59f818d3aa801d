"""Look at pairs, answers and votes in the browser, on this machine."""

import os
import signal
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmdpo.commands import Verb
from mmdpo.files import printable
from mmdpo.keys import names_of
from mmdpo.options import Options, option
from mmdpo.terminal import quiet_libraries

if TYPE_CHECKING:
    from mmdpo.app.sources import Sources

AUTH = "MMDPO_APP_AUTH"
"""Environment variable of `user:password`."""


@dataclass(frozen=True, kw_only=True)
class AppOptions(Options):
    """What is opened, and for whom."""

    data: tuple[str, ...] = option((), "Pairs: files, folders, hub names, `world`.", metavar="DATA")
    split: str = option("train", "Split of the datasets.")
    dataset_config: str | None = option(None, "Configuration of hub datasets.")
    dataset_format: str = option("auto", "Format of the rows.", known=names_of("dataset_format"))
    image_root: str | None = option(None, "Folder that relative image paths start from.")
    seed: int = option(42, "Seed of the run that corrupted images are shown for.")
    vocabulary: Path | None = option(None, "JSON file of words and the object that each names, to tell pairs by.")
    decisions: Path = option(Path("decisions.jsonl"), "Write flags and drops of rows to this file.", metavar="FILE")
    runs: tuple[Path, ...] = option((), "Folders that mmdpo wrote: runs, results, diagnoses.", metavar="RUN")
    image_dir: Path | None = option(None, "Folder of the images of benchmarks.")
    models: tuple[str, ...] = option((), "Models: hub names, run folders, adapters, `world`.", metavar="MODEL")
    max_models: int | None = option(None, "Models in memory at a time.", least=1, unset="as many as fit")
    votes: Path | None = option(None, "Take blind votes on the runs, into this SQLite file.", metavar="FILE")
    demo: bool = option(False, "Open the embedded world and the quickstart's runs, made where they are not there.")
    host: str = option("127.0.0.1", "Address to serve on; others than this machine's own let others in.")
    port: int | None = option(None, "Port.", least=1, unset="the first that is free from 7860 on")
    auth: Path | None = option(
        None, "File of `user:password` lines that are let in.", metavar="FILE", unset=f"the variable {AUTH}"
    )


def run(options: AppOptions) -> int:
    """Opens the app, and serves it until it is interrupted."""
    if find_spec("gradio") is None:
        raise ImportError('mmdpo app needs Gradio, which is not installed: pip install "mmdpo[app]"')
    auth = read_auth(options.auth)
    quiet_libraries()
    from mmdpo.app.page import build_app, check_address, is_loopback, launch

    def say(address: str) -> None:
        print(printable(f"Open {address} (Ctrl-C ends it)"), flush=True)

    check_address(options.host, options.port)
    # What stops a service ends it as Ctrl-C does, so that no picture that somebody has uploaded stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="mmdpo-app-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # else uploads stay, in one folder for all users of the machine
        app = build_app(_find_sources(options))
        if not is_loopback(options.host) and not auth:
            print(printable(f"Whoever reaches {options.host} can read the data and decide: --auth asks for a password"))
        launch(app, host=options.host, port=options.port, auth=auth, ready=say)
    return 0


def _find_sources(options: AppOptions) -> "Sources":
    """Returns what the options name. Raises ValueError where that is nothing, or the demo and something else."""
    from mmdpo.app.sources import DatasetSource, Sources

    named = [name for name in ("data", "runs", "models", "votes") if getattr(options, name)]
    if options.demo and named:
        raise ValueError(f"--demo opens what it makes itself: leave out --{', --'.join(named)}, or --demo")
    if options.demo:
        from rich.console import Console

        from mmdpo.app.demo import prepare_demo

        return replace(prepare_demo(Console()), max_models=options.max_models)
    if options.votes and (options.data or options.models):
        raise ValueError(
            "--votes serves the page of votes alone, where raters are not told whose answers they read: leave out "
            "--data and --models, or open them in an app of their own, on another --port"
        )
    if not named:
        raise ValueError("app: there is nothing to open: name --data, --runs or --models, or try --demo")
    how = (options.split, options.dataset_config, options.dataset_format, options.image_root, options.seed)
    return Sources(
        datasets=tuple(DatasetSource(name, *how) for name in options.data),
        runs=options.runs,
        models=options.models,
        max_models=options.max_models,
        decisions=options.decisions,
        votes=options.votes,
        image_dir=options.image_dir,
        vocabulary=options.vocabulary,
        seed=options.seed,
    )


def read_auth(path: Path | None) -> list[tuple[str, str]]:
    """Returns users and passwords of a file, else of the environment, else none.

    Raises ValueError, which names no password, for a line without a user or a password.
    """
    text = os.environ.get(AUTH, "") if path is None else path.read_text(encoding="utf-8")
    found = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        user, _, password = line.partition(":")
        if not line:
            continue
        if not user or not password:
            where = AUTH if path is None else f"{path}, line {number}"
            raise ValueError(f"{where}: write user:password")
        found.append((user, password))
    if path is not None and not found:
        raise ValueError(f"{path}: there is no user in it; write user:password, one a line")
    return found


VERB = Verb(
    __doc__,
    AppOptions,
    run,
    page="app",
    examples={
        "look around, with nothing prepared": "mmdpo app --demo",
        "pairs of your own; flags and drops go to decisions.jsonl": "mmdpo app --data pairs.jsonl --image_root photos",
        "answers of two models beside each other": "mmdpo app --runs runs/dpo/amber runs/mdpo/amber",
        "blind votes on them": "mmdpo app --runs runs/dpo/amber runs/mdpo/amber --votes votes.db",
    },
)
