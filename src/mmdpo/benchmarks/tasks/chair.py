"""CHAIR: objects in detailed descriptions of 500 images of COCO val2014 that are not in the image.

Source: Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018, with the words of its `synonyms.txt`;
each word of a description that names a COCO class counts, as in word mode of `object_halbench`. There is no official
list of images: 500 are drawn by a fixed seed, unless `chair_ids.json` in the data's folder lists others. Numbers depend
on the limit of tokens of a description (64 and 512 are both in use), which the result names.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore, Tools, ratio_metric
from mmdpo.benchmarks.reading import EvaluationError, find_by_image, read_data, read_data_text
from mmdpo.benchmarks.tasks.object_halbench import TRAPS as TRAPS_OF_WORDS
from mmdpo.benchmarks.tasks.object_halbench import CocoObjects, gather_objects, score_answer
from mmdpo.files import parse_json

LICENCE = "CHAIR's synonyms: BSD-2-Clause; COCO annotations CC BY 4.0"
GENERATION: Mapping[str, Any] = {"max_new_tokens": 512}
SETTINGS_TOLD = ("max_new_tokens",)
LANGUAGE_TOOLS = ("linguistics",)
TRAPS = {name: TRAPS_OF_WORDS[name] for name in ("men", "vases", "no_mention")}
HEADLINE = ("chair/chair_s", "chair/chair_i", "chair/recall")

IMAGES: Final = 500
SEED: Final = 0
SYNONYMS: Final = "synonyms.txt"
IDS: Final = "chair_ids.json"
INSTANCES, CAPTIONS, OBJECTS = "instances_val2014.json", "captions_val2014.json", "coco2014_gt_objects.json.gz"
_PROMPT: Final = "Please describe this image in detail."


_ratio = partial(ratio_metric, over="word/n", digits=1)
METRICS = (
    _ratio("chair/chair_s", "word/hallucinating", "word/n", better="lower"),
    _ratio("chair/chair_i", "word/hallucinated", "word/mentions", better="lower"),
    _ratio("chair/recall", "word/found", "word/truth"),
    ratio_metric("chair/caption_words", "words", "n", factor=1, better="neither", unit="words", digits=1),
)


def draw_images(image_ids: Iterable[int]) -> list[int]:
    """Returns the ids of 500 images, sorted; all where there are fewer."""
    ids = sorted(image_ids)
    return sorted(random.Random(SEED).sample(ids, min(IMAGES, len(ids))))


def name_image(image_id: int) -> str:
    """Returns the file name of an image of val2014."""
    return f"COCO_val2014_{image_id:012d}.jpg"


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Draws 500 images of val2014, with the COCO classes that they show; ids are COCO image ids.

    The classes are built from `instances_val2014.json` and `captions_val2014.json` where they are in the folder, as
    officially; else `coco2014_gt_objects.json.gz` is taken as it is, for the images that `chair_ids.json` lists.

    Raises EvaluationError for a file that is missing or another one, or an image whose objects nobody knows.
    """
    truth: Mapping[str, Sequence[str]]
    chosen = _read_ids(data_dir / IDS)
    if (data_dir / INSTANCES).is_file() and (data_dir / CAPTIONS).is_file():
        instances = read_data(data_dir / INSTANCES)
        drawn = chosen or draw_images(record["id"] for record in instances["images"])
        synonyms = CocoObjects.build(read_data_text(data_dir / SYNONYMS).splitlines())
        captions = map(read_data, [data_dir / CAPTIONS])
        truth = gather_objects([instances], captions, frozenset(map(str, drawn)), synonyms, tools.linguistics)
        tools.used["ground_truth"] = f"{INSTANCES}, {CAPTIONS}"
    elif chosen:
        drawn, truth = chosen, _read_objects(data_dir / OBJECTS)
        tools.used["ground_truth"] = f"{OBJECTS}, as given"
    else:
        raise EvaluationError(
            f"{data_dir}: holds neither {INSTANCES} with {CAPTIONS}, which say what val2014 is, nor {IDS}, a list of "
            "image ids; fetch the data by `mmdpo eval download chair`"
        )
    missing = [image_id for image_id in drawn if str(image_id) not in truth]
    if missing:
        raise EvaluationError(f"{data_dir}: no objects are known of {len(missing)} images, the first is {missing[0]}")
    digest = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16]
    whence = f"listed in {IDS}" if chosen else f"drawn with seed {SEED}"
    tools.used["images"] = f"{len(drawn)} of val2014, {whence} (SHA-256 of their ids {digest}…)"
    return tuple(
        BenchmarkItem(str(image_id), "all", _PROMPT, name_image(image_id), {"objects": truth[str(image_id)]})
        for image_id in drawn
    )


def _read_ids(file: Path) -> list[int]:
    """Returns the ids of a list that the user gives, sorted; nothing if there is none."""
    listed = read_data(file) if file.is_file() else []
    if not isinstance(listed, list) or not all(type(image_id) is int for image_id in listed):
        raise EvaluationError(f"{file}: should be a list of COCO image ids, as [139, 285]")
    if len(set(listed)) < len(listed):
        raise EvaluationError(f"{file}: lists {len(listed) - len(set(listed))} images twice")
    return sorted(listed)


def _read_objects(file: Path) -> Mapping[str, Sequence[str]]:
    """Returns image id → class names of a table `{names, objects: {id: [index of a name]}}`."""
    try:
        content = parse_json(gzip.decompress(file.read_bytes()))
        names, objects = content["names"], content["objects"]
        return {image_id: [names[index] for index in indices] for image_id, indices in objects.items()}
    except FileNotFoundError as error:
        raise EvaluationError(f"{file}: this file of the benchmark's data is missing; check --data_dir") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{file}: no table of the objects of COCO's images ({error!r})") from error


find_id = find_by_image


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the rule: word mode of Object HalBench with CHAIR's own synonyms."""
    synonyms = CocoObjects.build(read_data_text(data_dir / SYNONYMS).splitlines())
    return partial(score_answer, synonyms=synonyms, tools=replace(tools, judge=None))
