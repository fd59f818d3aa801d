"""The Parquet files of a run: its pairs in TRL's form, pictures inside, each with where it comes from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmdpo.data.convert import ExampleWriter, Shape
from mmdpo.files import digest_of, read_json, to_json
from mmdpo.folders import make_folder
from mmdpo.pairs.offers import LOGPS, Offer
from mmdpo.pairs.plan import BuildPlan
from mmdpo.pairs.prompts import Prompt, read_image_file, sha256_image
from mmdpo.pairs.rules import Proposal
from mmdpo.pairs.run_files import RunFiles
from mmdpo.pairs.samples import SAMPLER, explain_changed
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, named_source

DATASET, TRAIN, EVAL = "dataset", "train.parquet", "eval.parquet"
COLUMNS = (
    "prompt_id", "image_sha256", "round", "sampler", "seed", "k_chosen", "k_rejected", "judge", "judge_version",
    "score_chosen", "score_rejected", "claims_chosen", "claims_rejected", "logp_chosen", "logp_rejected", "rule",
    "clean", "margin", "length_ratio", "licence",
)  # fmt: skip
"""What a row has beside the pair: where it comes from."""


def write_dataset(
    taken: Sequence[tuple[Prompt, Offer]],
    pairs: Iterable[Proposal],
    files: RunFiles,
    plan: BuildPlan,
    rule: str,
    folder: Path,
) -> dict[str, int]:
    """Writes the pairs that are taken, those of some images apart, and returns how many are where.

    `pairs` are read one by one, as they are written; both files are there once all pairs are. Raises SamplesError for a
    picture that is not the one that was asked about.
    """
    make_folder(folder)
    parts = _split([files.images(prompt) for prompt, _ in taken], plan.eval_share)
    logps = {(part, column) for (_, offer), part in zip(taken, parts, strict=True) for column in offer.logps}
    describe, shape, counts = _describe_origin(files, plan, rule), Shape(), Counter[str]()
    writers: dict[str, ExampleWriter] = {}
    with ExitStack() as stack:
        for (prompt, _), part, pair in zip(taken, parts, pairs, strict=True):
            images = _read_images(prompt, files)
            row = describe(prompt, pair)
            row = {name: of for name, of in row.items() if name not in LOGPS or (part, name) in logps}
            example = _to_example(prompt, pair, images, counts[prompt.id])
            counts[prompt.id] += 1
            if part not in writers:
                shape.add(example)
                kinds = {name: float if name in LOGPS else type(of) for name, of in row.items()}
                writers[part] = stack.enter_context(ExampleWriter(folder / part, shape, kinds))
            writers[part].add(example, row)
    for part in (TRAIN, EVAL):
        if part not in writers:
            (folder / part).unlink(missing_ok=True)
    return {part.removesuffix(".parquet"): writers[part].count for part in (TRAIN, EVAL) if part in writers}


def _split(images: Sequence[Sequence[str]], eval_share: float) -> list[str]:
    """Returns the file of each pair, by its pictures; that of training holds some in any case."""
    lead = group_images(images) if eval_share else {}
    is_eval = [bool(lead) and int(digest_of(lead[own[0]])[:8], 16) < eval_share * 2**32 for own in images]
    return [TRAIN] * len(images) if all(is_eval) else [EVAL if each else TRAIN for each in is_eval]


def group_images(together: Iterable[Sequence[str]]) -> dict[str, str]:
    """Returns of each picture the first, by its digest, of all that stand with it, one way or another, in a prompt.

    >>> group_images([("b", "c"), ("a", "c"), ("d",)])
    {'b': 'a', 'c': 'a', 'a': 'a', 'd': 'd'}
    """
    parents: dict[str, str] = {}

    def find(image: str) -> str:
        parents.setdefault(image, image)
        while parents[image] != image:
            parents[image] = image = parents[parents[image]]
        return image

    for images in together:
        for image in images:
            first, last = sorted((find(images[0]), find(image)))
            parents[last] = first
    return {image: find(image) for image in parents}


def _read_images(prompt: Prompt, files: RunFiles) -> tuple[Any, ...]:
    """Returns a prompt's pictures, of a file its content and name; raises SamplesError if others were asked about."""
    images, digests = list[Any](), list[str]()
    with named_source(prompt.source):
        for image in prompt.images:
            if isinstance(image, str | Path):
                content = read_image_file(image)
                images.append({"bytes": content, "path": os.path.basename(image)})  # noqa: PTH119 - as in read_image_file
                digests.append(sha256_image(content))
            else:
                images.append(image)
                digests.append(sha256_image(image))
    if tuple(digests) != files.images(prompt):
        raise explain_changed(files.folder, prompt)
    return tuple(images)


def _to_example(prompt: Prompt, pair: Proposal, images: tuple[Any, ...], number: int) -> PreferenceExample:
    return PreferenceExample(
        id=prompt.id if not number else f"{prompt.id}/{number}",
        prompt=prompt.turns,
        responses={
            name: ({"role": "assistant", "content": [{"type": "text", "text": text}]},)
            for name, text in zip((CHOSEN, REJECTED), pair.texts, strict=True)
        },
        images=images,
        source=prompt.source,
    )


def _describe_origin(files: RunFiles, plan: BuildPlan, rule: str) -> Callable[[Prompt, Proposal], dict[str, Any]]:
    """Returns what says where a pair comes from: the further columns of its row."""
    sampler = read_json(files.folder / SAMPLER)
    of_run = {
        "round": plan.round,
        "sampler": name_sampler(sampler["sampler"]),
        "seed": int(sampler["settings"]["seed"]),
        "judge": " + ".join(files.versions),
        "judge_version": " + ".join(files.versions.values()),
        "rule": rule,
    }

    def describe(prompt: Prompt, pair: Proposal) -> dict[str, Any]:
        row = {"prompt_id": prompt.id, "image_sha256": " ".join(files.images(prompt)), **of_run}
        sides = zip((CHOSEN, REJECTED), (pair.chosen, pair.rejected), pair.texts, pair.verdicts, strict=True)
        for name, side, text, verdict in sides:
            row |= {
                f"k_{name}": side.sample.k,
                f"score_{name}": float(verdict.score),
                f"claims_{name}": to_json(verdict.list_claims()),
                f"logp_{name}": side.sample.logprob if text == side.sample.text else None,
            }
        row |= {"clean": float(pair.is_clean), "margin": float(pair.margin)}
        row |= {"length_ratio": pair.words[0] / max(1, pair.words[1]), "licence": prompt.licence or plan.licence}
        return {name: row[name] for name in COLUMNS}

    return describe


def name_sampler(described: Mapping[str, Any]) -> str:
    """Returns the name of the model that gave answers: as it was named, with the digest of its weights."""
    weights = [described.get(key) for key in ("weights", "adapter_weights")]
    known = [str(digest)[:16] for digest in weights if digest]
    return "@".join([str(described["model"]), *known])
