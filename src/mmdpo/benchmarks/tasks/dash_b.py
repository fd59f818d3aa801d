"""DASH-B: is an object in the image, yes or no; half the images were found because models see what is not there.

Source: Augustin, Neuhaus and Hein, DASH: Detection and Assessment of Systematic Hallucinations of VLMs, ICCV 2025;
scoring as the authors' `eval_utils.py`: the letters "yes" anywhere in an answer, else "no"; an answer with neither is
wrong. Always "yes" has accuracy 0.5, TNR 0 and harmonic mean 0. Images of one object are resampled together: they were
searched for with one query, and a model that sees the object in one of them often sees it in all. The answers of
PaliGemma that the authors released were given to other positive images than their lists name: they are scored by lists
of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import (
    BenchmarkItem,
    BenchmarkItems,
    ItemScore,
    Sums,
    Tools,
    Values,
    divide,
    ratio_metric,
)
from mmdpo.benchmarks.reading import ANSWER_FIELDS as USUAL_FIELDS
from mmdpo.benchmarks.reading import EvaluationError, Row, read_data
from mmdpo.benchmarks.yes_no import find_yes_or_no

LICENCE = "DASH-B: no licence is named; its images are LAION's and others', found on the web"
SIZE = 2_682
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
ANSWER_FIELDS = ("response", *USUAL_FIELDS)
"""The authors' `answer` is what they read in the `response`."""
TRAPS = {"unanswered": 'answers that hold neither "yes" nor "no", which count as wrong'}
HEADLINE = ("dash_b/accuracy", "dash_b/harmonic_mean")

_FILES: Final = {"neg": ("no", "dash_benchmark_neg.json"), "pos": ("yes", "dash_benchmark_pos.json")}
"""Folder of the images → whether they show their object, and the file that lists them."""
_PROMPT: Final = "Can you see a {} in this image? Please answer only with yes or no."


_ACCURACY, _TNR, _TPR = (
    ratio_metric(f"dash_b/{name}", "/right", "/n", scopes=labels, factor=1, unit="share")
    for name, labels in (("accuracy", ("no", "yes")), ("tnr", ("no",)), ("tpr", ("yes",)))
)


def _harmonic_mean(sums: Sums) -> Values:
    negative, positive = _TNR.compute(sums), _TPR.compute(sums)
    return divide(2 * (positive * negative), positive + negative)


METRICS = (_ACCURACY, _TNR, _TPR, replace(_ACCURACY, name="dash_b/harmonic_mean", compute=_harmonic_mean))


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads both lists of images, from the folder or `images` in it; ids are paths as `neg/coco/backpack/1.png`.

    Raises EvaluationError for a file that is missing, or another one.
    """
    return tuple(item for kind in _FILES for item in _read_list(data_dir, kind))


def _read_list(data_dir: Path, kind: str) -> list[BenchmarkItem]:
    label, name = _FILES[kind]
    file = next((path for path in (data_dir / name, data_dir / "images" / name) if path.is_file()), data_dir / name)
    content = read_data(file)
    try:
        named = [
            (source, thing, image)
            for source, things in content.items()
            for thing, images in things.items()
            for image in images
        ]
        return [
            BenchmarkItem(
                id=f"{kind}/{source}/{thing}/{image}",
                part=label,
                prompt=_PROMPT.format(thing),
                image=f"{kind}/{source}/{thing}/{image}",
                truth={"label": label, "object": thing},
                group=thing,
            )
            for source, thing, image in named
        ]
    except (AttributeError, TypeError) as error:
        raise EvaluationError(f"{file}: no list of images of DASH-B ({error!r})") from error


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the item of the authors' `gt`, `object_name` and `img_id`; raises EvaluationError if there is none."""
    said = {name: str(row.values.get(name)) for name in ("gt", "object_name", "img_id")}
    for item in items.groups.get(said["object_name"], ()):
        if item.part == said["gt"] and item.image.endswith(f"/{said['img_id']}"):
            return item.id
    raise EvaluationError(
        f"no image of DASH-B's lists: gt {said['gt']!r}, object_name {said['object_name']!r}, img_id "
        f"{said['img_id']!r}; give these three, or an id as neg/coco/backpack/2327067188.png, of the lists asked"
    )


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Reads yes or no."""
    said, label = find_yes_or_no(answer), item.truth["label"]
    return ItemScore(
        counts={f"{label}/n": 1.0, f"{label}/right": float(said == label)},
        reason={"read_as": said or "neither", "label": label},
        traps={} if said else {"unanswered": 1},
    )
