"""Where tests find the benchmarks' own data, which never lies in this repository, and our own small cases.

`MMDPO_BENCHMARKS` names the folder; `../shared/benchmarks` beside the checkout is looked at if it is not set. Where
there is none, a test that needs it is skipped with that reason; under CI (`CI` is set), or if the variable names no
such folder, it fails.
"""

import json
import os
from pathlib import Path

import pytest

from mmdpo.benchmarks.definitions import Tools
from mmdpo.benchmarks.linguistics import NltkLinguistics, TableLinguistics
from mmdpo.benchmarks.similarity import PairTable

ROOT = Path(__file__).parents[1]
HAND_MADE = Path(__file__).parent / "golden"


def official_data() -> Path:
    """Returns the folder of the benchmarks' data; skips or fails the test if there is none."""
    named = os.environ.get("MMDPO_BENCHMARKS")
    folder = Path(named) if named else ROOT.parent / "shared" / "benchmarks"
    if not (folder / "golden").is_dir():
        reason = (
            f"no benchmark data in {folder}; set MMDPO_BENCHMARKS to the folder that holds amber/, pope/, golden/, …"
        )
        if named or os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def chair_folder(folder: Path, image_ids: list[int]) -> Path:
    """Makes a folder of CHAIR's data for these images of COCO; returns it."""
    folder.mkdir()
    for name in ("synonyms.txt", "coco2014_gt_objects.json.gz"):
        (folder / name).symlink_to(official_data() / "chair" / name)
    (folder / "chair_ids.json").write_text(json.dumps(image_ids))
    return folder


def official_tools(judge=None) -> Tools:
    """Returns the tools that the official numbers were made with."""
    data = official_data()
    return Tools(
        lambda: NltkLinguistics(data / "nltk_data"),
        lambda: PairTable.read(data / "golden" / "amber_similar_pairs_md.json"),
        judge,
    )


def plain_tools(judge=None) -> Tools:
    """Returns tools that need nothing installed and no data."""
    return Tools(TableLinguistics, lambda: PairTable.read(HAND_MADE / "amber" / "similar_pairs.json"), judge)
