"""What the page of a run shows of prompts without a pair and no other file of the run has: the question, and pictures.

unpaired.jsonl   a line for each such prompt, a few in all: id, question, pictures
unpaired/        small copies of their pictures
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdpo.data.images import open_image
from mmdpo.files import write_rows
from mmdpo.folders import make_folder
from mmdpo.pairs.prompts import Prompt
from mmdpo.records import ImageSource, RowError
from mmdpo.report.layout import JPEG_QUALITY, LONGEST_SIDE, SMALL
from mmdpo.report.pair_files import MOST_PICTURES, UNPAIRED, choose_unpaired
from mmdpo.report.pairs import SHOWN_UNPAIRED

PICTURES = "unpaired"


def write_unpaired(folder: Path, prompts: Sequence[Prompt], seed: int) -> None:
    """Writes what is shown of a few prompts that are in no pair, drawn by the seed; a picture may be missing later."""
    known = {prompt.id: prompt for prompt in prompts}
    pictures = folder / PICTURES
    make_folder(pictures)
    for path in (*pictures.glob("*.png"), *pictures.glob("*.jpg")):  # of an earlier build
        path.unlink()
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(choose_unpaired(folder, SHOWN_UNPAIRED, seed, [], known.__contains__)):
        prompt = known[name]
        written = [
            _write_small(image, pictures / f"{place}-{number}").relative_to(folder).as_posix()
            for number, image in enumerate(prompt.images[:MOST_PICTURES])
        ]
        rows.append({"id": name, "question": prompt.question, "pictures": written})
    write_rows(folder / UNPAIRED, rows)


def _write_small(image: ImageSource, path: Path) -> Path:
    """Writes a small copy of a picture and returns its path; of one that cannot be read there is no file."""
    try:
        copy = open_image(image)
    except RowError:
        return path.with_suffix(".jpg")
    path = path.with_suffix(".png" if max(copy.size) <= SMALL else ".jpg")
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    copy.save(path, quality=JPEG_QUALITY)
    return path
