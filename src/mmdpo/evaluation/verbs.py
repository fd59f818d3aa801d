"""The verbs of `mmdpo eval` that are no benchmark: their options. What they do is imported when they are run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `compare` and `download`; each sets `verb`, a function of the options that returns the status."""
    compare = verbs.add_parser("compare", help="runs beside each other: differences with intervals, and a picture")
    compare.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="Folders of results, or of suites.")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="The default is `compare` beside the first run.")
    compare.add_argument("--resamples", type=int, default=2000, help="Number of resamples of the bootstrap.")
    compare.add_argument("--seed", type=int, default=0, help="Seed of the bootstrap.")
    compare.set_defaults(verb=_compare)
    download = verbs.add_parser("download", help="fetch data and images of benchmarks from their public places")
    download.add_argument("names", nargs="+", metavar="NAME", help="A benchmark, or all.")
    download.add_argument(
        "--data_dir", type=Path, metavar="FOLDER", help="The default is a cache, where `mmdpo eval` looks."
    )
    download.add_argument("--no_images", action="store_true", help="Fetch only what is needed to score answers.")
    download.set_defaults(verb=_download)


def _compare(options: argparse.Namespace) -> int:
    from mmdpo.evaluation.compare import run_compare

    return run_compare(options)


def _download(options: argparse.Namespace) -> int:
    from mmdpo.evaluation.download import run_download

    return run_download(options)
