"""`mmdpo diagnose`: does this model's preference depend on the image?

diagnosis.json    measures with intervals, what they say, what was left out and why
examples.jsonl    every pair, from the most to the least image-reliant
diagnosis.md, diagnosis.html, pictures/
policy_scores.jsonl, reference_scores.jsonl    every pair's log-probabilities, written as they are scored: a diagnosis
                  that was killed goes on there, see `mmdpo.study.score_log`
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import release_memory
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from xxhash import xxh3_128

from mmdpo.corruption import Corruption, corrupt_image, load
from mmdpo.data.check import find_faults
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.images import open_image
from mmdpo.data.items import Item, Items
from mmdpo.data.messages import plain_text
from mmdpo.data.validate import validate_example
from mmdpo.files import make_folder
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.parts import disable_dropout
from mmdpo.models.start import resolve_start
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError, derive_generator
from mmdpo.scoring.digests import CellKeys, describe_model, digest_processor, digest_weights
from mmdpo.study.dependence import CONDITIONS, PairValues, compare_images, summarise_pairs
from mmdpo.study.pictures import find_paths, name_images, save_small
from mmdpo.study.reliance import OTHER, PairScores, make_collator, score_batches
from mmdpo.study.score_log import ScoreLog
from mmdpo.study.shortcut import TextPair, measure_shortcut
from mmdpo.training.config import MDPOConfig
from mmdpo.training.durable.resume import check_run_folder
from mmdpo.training.row_check import FullCheck
from mmdpo.training.run import read_examples
from mmdpo.world.worlds import find_world

RESULT, EXAMPLES = "diagnosis.json", "examples.jsonl"
SCORES = {"policy": "policy_scores.jsonl", "reference": "reference_scores.jsonl"}
WITHOUT_REFERENCE = (
    "there is no reference (--reference, or an adapter): margins are of log-probabilities, which prefer short answers, "
    "not of rewards"
)
_NAMED = 20
"""How many rows that were left out are named."""


@dataclass(frozen=True)
class DiagnosisPlan:
    """What is diagnosed, and how."""

    model: str
    dataset: str
    adapter: str | None = None
    """The policy is the model with it, the reference the model without it."""
    reference: str | None = None
    split: str | None = None
    """`train` unless given; of an embedded world `test`."""
    pairs: int | None = None
    """How many, drawn by the seed; all if None."""
    corruption: str = "crop_0_20"
    beta: float = 0.1
    seed: int = 0
    batch_size: int = 8
    dtype: str | None = None
    """bfloat16 on a GPU and float32 on a CPU unless given."""
    max_length: int | None = 2048
    dataset_format: str = "auto"
    dataset_config: str | None = None
    image_root: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: str | None = None
    """Variables of the chat template, as JSON."""
    trust_remote_code: bool = False
    probe: bool = True
    """Compare how two pairs are scored with plain forwards before all are."""
    resamples: int = 2000
    shown: int = 6
    """Pairs on the page from each end of the order."""


@dataclass(frozen=True)
class Chosen:
    """The pairs that are measured, and what is to be said of the others."""

    pairs: PreferenceDataset
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


def diagnose(plan: DiagnosisPlan, out: Path, console: Console) -> dict[str, Any]:
    """Scores every pair under every image version, writes the files into `out`, and returns diagnosis.json's content.

    Scores that an interrupted diagnosis left in `out` are taken up. Raises ValueError where no pair has an image, and
    what is wrong with model or data; RunFolderError for scores of another model or of other pairs.
    """
    args, reference_args = _options(plan, plan.adapter), _options(plan, None)
    corruption = load(plan.corruption)
    make_folder(out)
    start = resolve_start(plan.model, args.load_options())
    processor, config = load_processor(start), start.config
    chosen = _choose_pairs(plan, args, processor, config, corruption)
    with console.status("drawing other examples' images"):
        collator, note = _find_conditions(plan, chosen.pairs, processor, config, corruption)
    policy, reference, compared = _score(plan, args, reference_args, collator, chosen.pairs, out, console)
    values = compare_images(policy, reference, plan.beta)
    examples = list(chosen.pairs)
    found = summarise_pairs(
        values, [example.id for example in examples], [name_images(e) for e in examples], resamples=plan.resamples
    )
    found["notes"] = [compared, *chosen.notes, *([note] if note else []), *found["notes"]]
    result = {
        "kind": "model",
        "pairs": len(examples),
        **found,
        "left_out": list(chosen.left_out),
        "options": asdict(plan),
        "versions": versions(),
    }
    _write_examples(out, plan, examples, values, corruption)
    (out / RESULT).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def diagnose_data(plan: DiagnosisPlan, out: Path, console: Console) -> dict[str, Any]:
    """Measures how well the text alone tells chosen from rejected, and writes the files without a model.

    examples.jsonl is sorted from the pairs that need the image to those that the text gives away.
    Raises ImportError without scikit-learn, ValueError where no pair can be read.
    """
    make_folder(out)
    pairs = read_pairs(plan, _options(plan, None))
    checked = find_faults(pairs, validate_example, num_workers=1, progress=False)
    left_out = [f"{fault.source}: {fault.problem}" for fault in checked.faults]
    if not checked.good:
        raise ValueError(f"{plan.dataset}: none of its {len(pairs)} pairs can be read; the first: {left_out[0]}")
    texts = [_as_text(example) for example in pairs.select(checked.good)]
    with console.status(f"reading {len(texts)} pairs"):
        found = measure_shortcut(texts, resamples=plan.resamples, seed=plan.seed)
    scores = found.pop("scores")
    if left_out:
        found["notes"].append(f"{len(left_out)} of {len(pairs)} pairs are left out; the first: {left_out[0]}")
    result = {
        "kind": "data",
        "pairs": len(texts),
        **found,
        "left_out": left_out[:_NAMED],
        "options": asdict(plan),
        "versions": versions(),
    }
    if scores:
        scored = sorted(zip(scores, texts, strict=True), key=lambda pair: pair[0])
        rows = ({"score": score, **asdict(text)} for score, text in scored)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / EXAMPLES).write_text("".join(lines), encoding="utf-8")
    (out / RESULT).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def check_folder(out: Path) -> None:
    """Raises RunFolderError for a folder that holds something else than the scores of an interrupted diagnosis."""
    if (out / SCORES["policy"]).is_file() and not (out / RESULT).exists():
        return
    check_run_folder(out, "choose another --out, or remove it")


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("mmdpo", "torch", "transformers")}}


def read_pairs(plan: DiagnosisPlan, args: MDPOConfig) -> PreferenceDataset:
    """Returns the pairs that a plan names, or as many of them as it asks for, drawn by its seed."""
    split = plan.split or ("test" if find_world(plan.dataset) is not None else "train")
    pairs = read_examples(
        plan.dataset,
        split,
        config=plan.dataset_config,
        format=plan.dataset_format,
        image_root=plan.image_root,
        seed=plan.seed,
    )
    if plan.pairs is None or plan.pairs >= len(pairs):
        return pairs
    drawn = derive_generator(plan.seed, "", "diagnosis").permutation(len(pairs))[: plan.pairs]
    return pairs.select(sorted(drawn.tolist()))


def _as_text(example: PreferenceExample) -> TextPair:
    chosen, rejected = (plain_text(example.responses[name]) for name in (CHOSEN, REJECTED))
    return TextPair(example.id, plain_text(example.prompt), name_images(example), chosen, rejected)


def _options(plan: DiagnosisPlan, adapter: str | None) -> MDPOConfig:
    dtype = plan.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    return MDPOConfig(
        output_dir="unused",
        adapter_name_or_path=adapter,
        model_init_kwargs={"dtype": dtype},
        max_length=plan.max_length,
        dataset_format=plan.dataset_format,
        image_root=plan.image_root,
        chat_template=plan.chat_template,
        chat_template_kwargs=plan.chat_template_kwargs,
        trust_remote_code=plan.trust_remote_code,
        report_to="none",
        seed=plan.seed,
    )


def _choose_pairs(plan: DiagnosisPlan, args: MDPOConfig, processor: Any, config: Any, corruption: Corruption) -> Chosen:
    """Leaves out pairs without an image, and those that training would refuse."""
    pairs = read_pairs(plan, args)
    versions = tuple(CONDITIONS)
    made = make_collator(processor, config, versions, seed=plan.seed, corruption=corruption, max_length=plan.max_length)
    inspect = FullCheck(made)

    def inspect_pair(example: PreferenceExample) -> Any:
        if not example.images:
            raise RowError("it has no image, so that nothing can depend on one")
        return inspect(example)

    result = find_faults(pairs, inspect_pair, num_workers=1, progress=True)
    left_out = [f"{fault.source}: {fault.problem}" for fault in result.faults]
    if not result.good:
        raise ValueError(f"{plan.dataset}: none of its {len(pairs)} pairs can be measured; the first: {left_out[0]}")
    notes = [f"{len(left_out)} of {len(pairs)} pairs are left out; the first: {left_out[0]}"] if left_out else []
    return Chosen(pairs.select(result.good), tuple(notes), tuple(left_out[:_NAMED]))


def _find_conditions(
    plan: DiagnosisPlan, pairs: PreferenceDataset, processor: Any, config: Any, corruption: Corruption
) -> tuple[Collator, str]:
    """Returns the collator of all image versions, or, with a note, of those that these pairs have."""
    images, note = tuple(CONDITIONS), ""
    try:
        items = Items(pairs, seed=plan.seed, draw_others=True)
        for place in range(len(items)):
            items[place]
    except ValueError as error:
        images = tuple(image for image in images if image != OTHER)
        note = f"another example's image is not measured: {error}"
    made = make_collator(processor, config, images, seed=plan.seed, corruption=corruption, max_length=plan.max_length)
    return made, note


def _score(
    plan: DiagnosisPlan,
    args: MDPOConfig,
    reference_args: MDPOConfig,
    collator: Collator,
    pairs: PreferenceDataset,
    out: Path,
    console: Console,
) -> tuple[PairScores, PairScores | None, str]:
    """Returns what policy and reference say, and what the reference is; one model is in memory at a time."""
    cells = collator.prepare.cells
    draw_others = any(corruption.needs_other_image for corruption in collator.prepare.corruptions.values())
    items, digest = Items(pairs, seed=plan.seed, draw_others=draw_others), CellKeys(collator.prepare)
    keys = [xxh3_128(b"".join(digest(items[place], cells))).hexdigest() for place in range(len(items))]

    def score(model: Any, role: str) -> PairScores:
        log = ScoreLog(out / SCORES[role], _describe_scoring(model, role, collator, plan), keys)
        known = log.read(plan.batch_size)
        with _show_progress(console) as progress:
            bar = progress.add_task(f"scoring, {role}", total=len(pairs), completed=known.shape[1])

            def keep(start: int, scores: Float[Tensor, "C B"]) -> None:
                log.append(start, scores)
                progress.update(bar, completed=start + scores.shape[1])

            options: dict[str, Any] = dict(seed=plan.seed, batch_size=plan.batch_size, try_first=plan.probe)
            return score_batches(model, collator, pairs, known=known, keep=keep, **options)

    model = _load(plan.model, args)
    policy = score(model, "policy")
    if plan.reference is None and hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            against = "rewards are taken against the model with its adapter switched off"
            return policy, score(model, "reference"), against
    release_memory(model)
    del model
    if plan.reference is None:
        return policy, None, WITHOUT_REFERENCE
    reference = score(_load(plan.reference, reference_args), "reference")
    return policy, reference, f"rewards are taken against {plan.reference}"


def _describe_scoring(model: Any, role: str, collator: Collator, plan: DiagnosisPlan) -> dict[str, Any]:
    """Returns what scores depend on beside the rows."""
    parameter = next(model.parameters())
    return {
        "model": describe_model(model),
        "weights": digest_weights(model),
        "adapter": "off" if role == "reference" and plan.reference is None else "on",
        "processor": digest_processor(collator.prepare.renderer.processor),
        "precision": f"{parameter.dtype} on {parameter.device.type}",
        "batch_size": plan.batch_size,
        "cells": [f"{cell.image}, {cell.response}" for cell in collator.prepare.cells],
        "versions": versions(),
    }


def _show_progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs"))
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _load(name: str, args: MDPOConfig) -> Any:
    model = load_model(resolve_start(name, args.load_options()))
    disable_dropout(model)
    return model.to(args.device)


def _write_examples(
    out: Path, plan: DiagnosisPlan, examples: Sequence[PreferenceExample], values: PairValues, corruption: Corruption
) -> None:
    """Writes the pairs, sorted, and small pictures of those from both ends."""
    items = Items(examples, seed=plan.seed, draw_others="other" in values.margins)
    order = values.reliance.argsort(descending=True, stable=True).tolist()
    ends = {*order[: plan.shown], *order[len(order) - plan.shown :]} if len(order) > plan.shown else set(order)
    with (out / EXAMPLES).open("w", encoding="utf-8") as file:
        for rank, place in enumerate(order, start=1):
            row = _describe_pair(examples[place], place, values, rank)
            if place in ends:
                row |= _save_pictures(out, items[place], rank, plan.seed, corruption)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _describe_pair(example: PreferenceExample, place: int, values: PairValues, rank: int) -> dict[str, Any]:
    return {
        "rank": rank,
        "id": example.id,
        "source": example.source,
        "images": find_paths(example.images),
        "prompt": plain_text(example.prompt),
        **{name: plain_text(example.responses[name]) for name in (CHOSEN, REJECTED)},
        "reliance": float(values.reliance[place]),
        "margins": {name: float(margins[place]) for name, margins in values.margins.items()},
        "gains": {name: float(gains[place]) for name, gains in values.gains.items()},
    }


def _save_pictures(out: Path, item: Item, rank: int, seed: int, corruption: Corruption) -> Mapping[str, str]:
    """Saves the first image of a pair, and the corrupted and the other example's image that it was compared with."""
    example, original = item.example, open_image(item.example.images[0])
    save_small(original, out / "pictures" / f"{rank}.png")
    saved = {"picture": f"pictures/{rank}.png"}
    if example.rejected_images or not corruption.needs_other_image:
        corrupted = (
            open_image(example.rejected_images[0])
            if example.rejected_images
            else corrupt_image(corruption, original, run_seed=seed, example_id=example.id, image_index=0)
        )
        save_small(corrupted, out / "pictures" / f"{rank}_corrupted.png")
        saved["corrupted_picture"] = f"pictures/{rank}_corrupted.png"
    if item.other_images:
        save_small(open_image(item.other_images[0]), out / "pictures" / f"{rank}_other.png")
        saved["other_picture"] = f"pictures/{rank}_other.png"
    return saved
