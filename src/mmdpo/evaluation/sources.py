"""Where benchmarks come from, and the checksums that they must have.

Checksums are SHA-256. Where none stands here, that of the first download is written down beside the data, and every
later one has to agree: see `mmdpo.evaluation.download`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmdpo.benchmarks.similarity import OFFICIAL_MODEL
from mmdpo.evaluation.unpacking import (
    QUESTIONS,
    Unpacked,
    unpack_annotations,
    unpack_folders,
    unpack_pictures,
    unpack_questions,
    unpack_similar_pairs,
)

_RLHF_V = "https://raw.githubusercontent.com/RLHF-V/RLHF-V/3d35a91568b237fcc9d884463d9279fd7ae10350/eval/data"
_DRIVE = "https://drive.usercontent.google.com/download"
_COCO = "http://images.cocodataset.org"
_COCO_LICENCE = "COCO images: their photographers', under Flickr's terms, see cocodataset.org; annotations CC BY 4.0"


@dataclass(frozen=True)
class RemoteFile:
    """A file, by its path in the benchmark's folder, and the public places that hold it, tried in this order."""

    path: str
    addresses: tuple[str, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class Archive:
    """A file that is fetched for what is in it, and not kept."""

    name: str
    addresses: tuple[str, ...]
    unpack: Callable[[Path], Unpacked]
    """Raises EvaluationError for a file that is no such archive: an error page, for instance."""
    size: str
    """For whoever waits."""
    sha256: str | None = None
    only_images: bool = False
    """Whether answers can be scored without it."""
    contents: Mapping[str, str] | None = None
    """Path of an unpacked file → its checksum, where it is known."""


@dataclass(frozen=True)
class Data:
    """What a benchmark, or a set of preference data, is made of.

    Of images that are fetched one by one: their names, and where each is.
    """

    licences: tuple[str, ...]
    files: tuple[RemoteFile, ...] = ()
    archives: tuple[Archive, ...] = ()
    image_address: Callable[[str], str] | None = None
    image_names: Callable[[Path], list[str]] | None = None


def _pope_images(folder: Path) -> list[str]:
    files = (file.read_text(encoding="utf-8") for file in sorted(folder.glob("coco_*pope_*.json")))
    return list(dict.fromkeys(json.loads(line)["image"] for text in files for line in text.splitlines()))


def _chair_images(folder: Path) -> list[str]:
    from mmdpo.benchmarks.tasks.chair import draw_images, name_image

    images = json.loads((folder / "instances_val2014.json").read_text(encoding="utf-8"))["images"]
    return [name_image(image_id) for image_id in draw_images(record["id"] for record in images)]


def _coco_address(name: str) -> str:
    return f"{_COCO}/val2014/{name}"


def _list_files(base: str, checksums: Mapping[str, str]) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(path, (f"{base}/{path}",), sha256) for path, sha256 in checksums.items())


_AMBER = "https://raw.githubusercontent.com/junyangwang0410/AMBER/5e1fd52f8ea69150c70f0ba15de70af3a907a1fd"
_AMBER_IMAGES = f"{_DRIVE}?id=1MaCHgtupcZUjf007anNl4_MV0o4DjXvl&export=download&confirm=t"
_VECTORS = f"{OFFICIAL_MODEL} 3.8.0"
_VECTORS_ADDRESS = (
    f"https://github.com/explosion/spacy-models/releases/download/{OFFICIAL_MODEL}-3.8.0/"
    f"{OFFICIAL_MODEL}-3.8.0-py3-none-any.whl"
)
_MMHAL_IMAGES = "hub:Shengcao1006/MMHal-Bench@b1d9d6339c4c2091754320bbcd00993915869568/test_data.zip"
_POPE = "https://raw.githubusercontent.com/RUCAIBox/POPE/main/output/coco"
_HALBENCH_ROWS = tuple(
    f"https://raw.githubusercontent.com/RLHF-V/{name}/main/eval/data/obj_halbench_300_with_image.jsonl"
    for name in ("RLHF-V", "RLAIF-V")
)
_HALBENCH_SHA256 = {QUESTIONS: "cd472b9e4053197fa0d669bf45a72d86629c294f18942070bc6d316b87b92c93"}
_ANNOTATIONS = f"{_COCO}/annotations/annotations_trainval2014.zip"
_REPOPE = "https://raw.githubusercontent.com/YanNeu/RePOPE/main/annotations"
_DASH_B = "https://raw.githubusercontent.com/YanNeu/DASH-B/0ed9a618404cf938ff1dbef141c4332a0eabad8f/images"
_DASH_B_IMAGES = "https://nc.mlcloud.uni-tuebingen.de/index.php/s/{}/download/{}.zip"
_HALLUSION = "https://raw.githubusercontent.com/tianyi-lab/HallusionBench/744007c232c292942c7f80eb61edb2465482da31"
_HALLUSION_IMAGES = f"{_DRIVE}?id=1eeO1i0G9BSZTE1yd5XeFwmrbe1hwyf_0&export=download&confirm=t"
_CHAIR = "https://raw.githubusercontent.com/LisaAnne/Hallucination/master/data"
_HALOQUEST = "https://raw.githubusercontent.com/google/haloquest/580aefd2769e305a3e105da03c40810c1f19d1fe"
_CONFLICT = "https://raw.githubusercontent.com/luka-group/vlm-knowledge-conflict"
_MMVP = "hub:MMVP/MMVP@main"
_COCO_ANNOTATIONS = Archive("COCO's annotations", (_ANNOTATIONS,), unpack_annotations, "241 MB")

SOURCES: Mapping[str, Data] = {
    "amber": Data(
        (
            "AMBER: Apache-2.0",
            "its images: for research, see github.com/junyangwang0410/AMBER",
            f"word vectors of spaCy's {_VECTORS}: MIT",
        ),
        _list_files(
            _AMBER,
            {
                "data/annotations.json": "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797",
                "data/query/query_all.json": "127680ae61f7d4a92d2f7f07a8deaec07f0689b194d2c7c0f41ead7bd2c5bcf5",
                "data/relation.json": "c4c1491e9bbc3209abc1888c12a1bf8413bdbab8a0d8be04b990a2e7680cf23e",
                "data/safe_words.txt": "f92cf1123f4578a2630832fac3e6ac4de36212ea55859d3bed4fd233723f4043",
            },
        ),
        (
            Archive("word vectors", (_VECTORS_ADDRESS,), unpack_similar_pairs, "400 MB"),
            Archive("AMBER's images", (_AMBER_IMAGES,), unpack_pictures, "1,004 images", only_images=True),
        ),
    ),
    "mmhal": Data(
        ("MMHal-Bench: Apache-2.0", "its images: OpenImages, CC BY 2.0"),
        _list_files(
            _RLHF_V,
            {"mmhal-bench_answer_template.json": "28ed24e19ffef292597c35f1dad37760b2e0a088b3b40ca3b50f105fc1b951bb"},
        ),
        (Archive("MMHal-Bench's images", (_MMHAL_IMAGES,), unpack_pictures, "174 MB", only_images=True),),
    ),
    "object_halbench": Data(
        ("Object HalBench's questions: CC BY-NC 4.0, for research", _COCO_LICENCE),
        _list_files(
            _RLHF_V, {"synonyms_refine.txt": "681041d2958d7871ed6fa69c3108f34aa6a0a354eb53ed4c5a425e65f86bc72a"}
        ),
        (
            Archive("questions and images", _HALBENCH_ROWS, unpack_questions, "300 images", contents=_HALBENCH_SHA256),
            _COCO_ANNOTATIONS,
        ),
    ),
    "pope": Data(
        ("POPE: MIT", _COCO_LICENCE),
        _list_files(
            _POPE,
            {
                "coco_pope_random.json": "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994",
                "coco_pope_popular.json": "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753",
                "coco_pope_adversarial.json": "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8",
            },
        ),
        image_address=_coco_address,
        image_names=_pope_images,
    ),
    "chair": Data(
        ("CHAIR's synonyms: BSD-2-Clause", _COCO_LICENCE),
        _list_files(_CHAIR, {"synonyms.txt": "b685537b36fe21b791c87151b96a991ceb582edff19f3da204dcc7a7905502f2"}),
        (_COCO_ANNOTATIONS,),
        image_address=_coco_address,
        image_names=_chair_images,
    ),
    "dash_b": Data(
        ("DASH-B: no licence is named", "its images: found on the web, for research"),
        _list_files(
            _DASH_B,
            {
                "dash_benchmark_neg.json": "29d9afa611083f3becdc64e4c30a1783a6c8be9bf6d335a12b124c50ad2876ed",
                "dash_benchmark_pos.json": "fe261c2b9463e27034aea34368330ae4645cfd3bc0feca907240eb5160517829",
            },
        ),
        tuple(
            Archive(
                f"DASH-B's images, {kind}",
                (_DASH_B_IMAGES.format(share, kind),),
                partial(unpack_folders, roots=(kind,)),
                "1,341 images",
                only_images=True,
            )
            for kind, share in {"neg": "HJKbBWpgLFz4rN5", "pos": "ppZeYNayJXiogjP"}.items()
        ),
    ),
    "hallusionbench": Data(
        ("HallusionBench: BSD-3-Clause",),
        _list_files(
            _HALLUSION,
            {"HallusionBench.json": "ca6e0fb677dd56e5fb0e2700d06c58d01f8a6ae66e0f1773b2ac48c0a095d051"},
        ),
        (
            Archive(
                "HallusionBench's images",
                (_HALLUSION_IMAGES,),
                partial(unpack_folders, roots=("VD", "VS")),
                "346 images",
                only_images=True,
            ),
        ),
    ),
    "haloquest": Data(
        ("HaloQuest: CC BY 4.0", "its images, each under its own licence, are at the addresses in the file"),
        (RemoteFile("haloquest-eval.csv", (f"{_HALOQUEST}/haloquest-eval.csv",)),),
    ),
    "knowledge_conflict": Data(
        ("ViQuAE's and InfoSeek's questions with options: no licence is named", "their images: of ViQuAE and OVEN"),
        (
            RemoteFile(
                "data_viquae_multiple_choice_data.json",
                (f"{_CONFLICT}/3bb996b8b21826b7d27dab60f58d63ba36ac8dd8/data/viquae/multiple_choice_data.json",),
                "1169e9af1aefb6681316503db179431f0dba815462a3678c81f320da56846b63",
            ),
            RemoteFile(
                "data_infoseek_sampled_val_mc.json",
                (f"{_CONFLICT}/013c87ee95c8230ace24f120e59447f79fdc1844/data/infoseek/sampled_val_mc.json",),
                "d807d28453f4ce583677f3eb5caf9608f723f801414c50af57328d57430633cc",
            ),
        ),
    ),
    "mmvp": Data(
        ("MMVP: MIT",),
        (RemoteFile("Questions.csv", (f"{_MMVP}/Questions.csv",)),),
        image_address=lambda name: f"{_MMVP}/{name}",
        image_names=lambda folder: [f"MMVP Images/{number}.jpg" for number in range(1, 301)],
    ),
    "repope": Data(
        ("RePOPE: no licence is named; made from POPE (MIT)", _COCO_LICENCE),
        _list_files(
            _REPOPE,
            {
                "coco_repope_random.json": "f464fcaf60b24ce2f280cf33f122e000dbdd35c8e88f77c4141c9c2cba864611",
                "coco_repope_popular.json": "57832b055bae5fd6176278a4f104c98ddd84811f7d26dfcb93d481f6c9da09a5",
                "coco_repope_adversarial.json": "8c346dbb060bf422ff92e769fa68e5ab3e8a777cb28a26e973387441e05c9ccf",
            },
        ),
        image_address=_coco_address,
        image_names=_pope_images,
    ),
}
"""What `mmdpo eval download` fetches, by benchmark; the embedded world needs nothing."""
