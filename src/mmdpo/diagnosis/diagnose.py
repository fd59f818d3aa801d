"""`mmdpo diagnose`: does this model's preference depend on the image?

diagnosis.json    measures with intervals, the verdict, what was left out and why
examples.jsonl    every pair, from the most to the least image-reliant
per_token.jsonl   pairs from both ends, token by token: log-probabilities under every image, of policy and reference
diagnosis.md, diagnosis.html, pictures/
policy_scores.jsonl, reference_scores.jsonl    every pair's log-probabilities (and their tokens', unless `per_token` is
                  0), written as they are scored: a diagnosis that was killed resumes from them, see
                  `mmdpo.diagnosis.pair_scores`
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import release_memory
from jaxtyping import Float
from PIL.Image import Resampling
from rich.console import Console
from torch import Tensor
from xxhash import xxh3_128

from mmdpo.corruption import Corruption, corrupt_image, load
from mmdpo.data.check import Inspect, find_faults
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.examples import read_examples
from mmdpo.data.images import open_image
from mmdpo.data.items import Item
from mmdpo.data.messages import plain_text
from mmdpo.data.prepare import Preparer
from mmdpo.data.validate import validate_example
from mmdpo.diagnosis.dependence import CONDITIONS, PairValues, compare_images, summarise_pairs
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.diagnosis.pair_scores import OTHER, PairScores, Scored, ScoreLog, make_items, make_pair_collator, score_pairs
from mmdpo.diagnosis.per_token import describe_tokens, place_tokens
from mmdpo.diagnosis.replies import REPLIES
from mmdpo.diagnosis.shortcut import TextPair, measure_shortcut
from mmdpo.files import read_mapping, read_yaml, write_json, write_rows
from mmdpo.folders import hold_folder, make_folder
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import LoadOptions, Start, resolve_start
from mmdpo.models.trained import disable_dropout
from mmdpo.progress import count, counting
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, RowError, derive_generator
from mmdpo.scoring.digests import CellKeys, describe_model, digest_processor, digest_weights
from mmdpo.training.durable.resume import RESOLVED_RECIPE, check_run_folder
from mmdpo.training.rows import FullCheck
from mmdpo.world import find_world

RESULT, EXAMPLES, PER_TOKEN = "diagnosis.json", "examples.jsonl", "per_token.jsonl"
SCORES = {"policy": "policy_scores.jsonl", "reference": "reference_scores.jsonl"}
WITHOUT_REFERENCE = (
    "there is no reference (--reference, or an adapter): margins are of log-probabilities, which prefer short answers, "
    "not of rewards"
)
SHOWN = 6
"""Pairs on the page from each end of the order."""


def diagnose(options: DiagnosisOptions, console: Console) -> dict[str, Any]:
    """Scores every pair under every image version, writes the files, and returns diagnosis.json's content.

    Scores that an interrupted diagnosis left in the folder are used again. Raises ValueError where no pair has an
    image, and what is wrong with model or data; RunFolderError for scores of another model or of other pairs;
    FolderInUseError where another process is at work in the folder.
    """
    corruption = load(options.corruption)
    start = _resolve(options, str(options.model), options.adapter)
    processor = load_processor(start)
    make_folder(options.out)  # now: it may be a folder of the model's
    with hold_folder(options.out):
        return _measure(options, start, processor, corruption, console)


def _measure(
    options: DiagnosisOptions, start: Start, processor: Any, corruption: Corruption, console: Console
) -> dict[str, Any]:
    def collate(images: Iterable[str]) -> Collator:
        how: dict[str, Any] = dict(seed=options.seed, corruption=corruption, max_length=options.max_length)
        return make_pair_collator(processor, start.config, tuple(images), **how)

    collator = collate(CONDITIONS)
    inspect = FullCheck(collator)

    def inspect_pair(example: PreferenceExample) -> None:
        if not example.images:
            raise RowError("it has no image, so that nothing can depend on one")
        inspect(example)

    pairs, left_out, notes = _find_good(options, inspect_pair, progress=not console.quiet)
    try:
        items = make_items(pairs, collator)
        for place in count(range(len(items)), "drawing other examples' images", "pair", shown=not console.quiet):
            items[place]
    except ValueError as error:
        collator = collate(image for image in CONDITIONS if image != OTHER)
        notes.append(f"another example's image is not measured: {error}")
    policy, reference, compared = _score(options, start, collator, pairs, console)
    values = compare_images(policy, reference, options.beta)
    examples = list(pairs)
    ids, images = [example.id for example in examples], [name_images(example) for example in examples]
    found = summarise_pairs(values, ids, images, resamples=options.resamples, seed=options.seed)
    found["notes"] = [compared, *_tell_trained_rows(options), *notes, *found["notes"]]
    # The part of each margin that is gone without the image comes first.
    order = (values.margins["real"] - values.margins["none"]).argsort(descending=True, stable=True).tolist()
    write_rows(options.out / EXAMPLES, _describe_pairs(options.out, examples, values, collator, order))
    if policy.tokens:
        ranks = {place: rank for rank, place in enumerate(order, start=1)}
        scored = [policy] if reference is None else [policy, reference]
        rows = (
            _describe_tokens(collator.prepare, examples[place], [of.tokens[place] for of in scored], ranks[place])
            for place in options.select_ends(order)
        )
        write_rows(options.out / PER_TOKEN, rows)
    return write_result(options, "model", len(pairs), left_out, found)


def diagnose_data(options: DiagnosisOptions, console: Console) -> dict[str, Any]:
    """Measures how well the text alone tells chosen from rejected, and writes the files without a model.

    examples.jsonl is sorted from the pairs that need the image to those that the text gives away.
    Raises ImportError without scikit-learn, ValueError where no pair can be read.
    """
    make_folder(options.out)
    with hold_folder(options.out):
        pairs, left_out, notes = _find_good(options, validate_example, progress=False)
        texts = [
            TextPair(
                example.id,
                plain_text(example.prompt),
                name_images(example),
                *(plain_text(example.responses[name]) for name in (CHOSEN, REJECTED)),
            )
            for example in pairs
        ]
        with console.status(f"learning from the text of {len(texts):,} pairs"):
            found = measure_shortcut(texts, resamples=options.resamples, seed=options.seed)
        found["notes"] += notes
        # Few pairs have no score.
        scored = sorted(zip(found.pop("scores"), texts, strict=False), key=lambda pair: pair[0])
        if scored:
            write_rows(options.out / EXAMPLES, ({"score": score, **asdict(text)} for score, text in scored))
        return write_result(options, "data", len(pairs), left_out, found)


def check_folder(out: Path) -> None:
    """Raises RunFolderError for a folder that holds something else than what an interrupted diagnosis left."""
    begun = any((out / name).is_file() for name in (SCORES["policy"], REPLIES))
    if not begun or (out / RESULT).exists():
        check_run_folder(out, "choose another --out, or remove it")


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("mmdpo", "torch", "transformers")}}


def name_images(example: PreferenceExample) -> str:
    """Returns a name that examples of the same images share: paths, or digests of what has none; "" without any."""

    def name(source: ImageSource) -> str:
        if isinstance(source, str | Path):
            return str(source)
        return xxh3_128(source if isinstance(source, bytes) else source.tobytes()).hexdigest()

    return " ".join(map(name, example.images))


def _choose_split(options: DiagnosisOptions) -> str:
    return options.split or ("test" if find_world(options.dataset) is not None else "train")


def _find_good(
    options: DiagnosisOptions, inspect: Inspect, *, progress: bool
) -> tuple[PreferenceDataset, list[str], list[str]]:
    """Returns the pairs that are measured, the first of those that `inspect` refuses, and a note on these.

    Of the pairs of the dataset as many are taken as the options ask for, drawn by the seed. Raises ValueError where
    none can be used.
    """
    pairs = read_examples(
        str(options.dataset),
        _choose_split(options),
        config=options.dataset_config,
        format=options.dataset_format,
        image_root=options.image_root,
        seed=options.seed,
    )
    if options.pairs is not None and options.pairs < len(pairs):
        drawn = derive_generator(options.seed, "", "diagnosis").permutation(len(pairs))[: options.pairs]
        pairs = pairs.select(sorted(drawn.tolist()))
    checked = find_faults(pairs, inspect, num_workers=1, progress=progress)
    left_out = [f"{fault.source}: {fault.problem}" for fault in checked.faults]
    if not checked.good:
        raise ValueError(f"{options.dataset}: none of its {len(pairs)} pairs can be used; the first: {left_out[0]}")
    notes = [f"{len(left_out)} of {len(pairs)} pairs are left out; the first: {left_out[0]}"] if left_out else []
    return pairs.select(checked.good), left_out[:20], notes


def _resolve(options: DiagnosisOptions, name: str, adapter: str | None = None) -> Start:
    variables: Any = options.chat_template_kwargs
    load = LoadOptions(
        adapter=adapter,
        arguments={"dtype": options.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")},
        chat_template=options.chat_template,
        chat_template_kwargs=read_mapping("--chat_template_kwargs", variables),
        trust_remote_code=options.trust_remote_code,
    )
    return resolve_start(name, load)


def _load(start: Start) -> Any:
    model = load_model(start)
    disable_dropout(model)
    return model.to(PartialState().device)


def _score(
    options: DiagnosisOptions, start: Start, collator: Collator, pairs: PreferenceDataset, console: Console
) -> tuple[PairScores, PairScores | None, str]:
    """Returns what policy and reference say, and what the reference is; one model is in memory at a time."""
    items, digest, cells = make_items(pairs, collator), CellKeys(collator.prepare), collator.prepare.cells
    keys = [xxh3_128(b"".join(digest(items[place], cells))).hexdigest() for place in range(len(items))]
    has_tokens = options.per_token != "0"

    def score(model: Any, role: str) -> PairScores:
        parameter = next(model.parameters())
        head = {  # what scores depend on beside the rows
            "model": describe_model(model),
            "weights": digest_weights(model),
            "adapter": "off" if role == "reference" and options.reference is None else "on",
            "processor": digest_processor(collator.prepare.renderer.processor),
            "precision": f"{parameter.dtype} on {parameter.device.type}",
            "batch_size": options.batch_size,
            "cells": [f"{cell.image}, {cell.response}" for cell in cells],
            **({"per_token": True} if has_tokens else {}),
            "versions": versions(),
        }
        log = ScoreLog(options.out / SCORES[role], head, keys)
        known = log.read()
        how: dict[str, Any] = dict(done=known.sums.shape[1], shown=not console.quiet)
        with counting(len(pairs), f"scoring, {role}", "pair", **how) as advance:

            def keep(start: int, scores: Scored) -> None:
                _check_finite(pairs, start, scores, role)
                log.append(start, scores)
                advance(scores.sums.shape[1])

            how = dict(batch_size=options.batch_size, try_first=not options.no_probe, with_tokens=has_tokens)
            return score_pairs(model, collator, pairs, known=known, keep=keep, **how)

    model = _load(start)
    policy = score(model, "policy")
    if options.reference is None and hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            against = "rewards are taken against the model with its adapter switched off"
            return policy, score(model, "reference"), against
    release_memory(model)
    del model
    if options.reference is None:
        return policy, None, WITHOUT_REFERENCE
    reference = score(_load(_resolve(options, options.reference)), "reference")
    return policy, reference, f"rewards are taken against {options.reference}"


def _tell_trained_rows(options: DiagnosisOptions) -> list[str]:
    """Returns a note where the pairs are those of the model's own training, by the recipe in its run folder."""
    path = Path(options.adapter or str(options.model)) / RESOLVED_RECIPE
    try:
        recipe = read_yaml(path)
        name, split = recipe["dataset_name"], recipe.get("dataset_train_split")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    is_same = name == options.dataset or Path(str(name)).resolve() == Path(str(options.dataset)).resolve()
    if not is_same or split != _choose_split(options):
        return []
    return [f"the model was trained on these pairs ({path}): pairs that it has not seen say more of what it has learnt"]


def _check_finite(pairs: PreferenceDataset, start: int, scores: Scored, role: str) -> None:
    """Raises ValueError, which names the pair, for scores that are no numbers, which would count as wrong."""
    faulty = [place for place, is_finite in enumerate(scores.sums.isfinite().all(0).tolist(), start) if not is_finite]
    if faulty:
        raise ValueError(
            f"{pairs.source_of(faulty[0])}: the {role} gives its answers no finite log-probability. Numbers overflow "
            "in float16: give --dtype bfloat16 or float32; or its weights hold NaN, and it cannot be diagnosed"
        )


def _describe_pairs(
    out: Path,
    examples: Sequence[PreferenceExample],
    values: PairValues,
    collator: Collator,
    order: Sequence[int],
) -> Iterable[dict[str, Any]]:
    """Yields the pairs in the order, and saves small pictures of those from both ends."""
    items, corruption = make_items(examples, collator), collator.prepare.corruptions["corrupted"]
    reliance = values.margins["real"] - values.margins["none"]
    for rank, place in enumerate(order, start=1):
        example, is_shown = examples[place], rank <= SHOWN or rank > len(order) - SHOWN
        yield {
            "rank": rank,
            "id": example.id,
            "source": example.source,
            "images": [str(source) for source in example.images if isinstance(source, str | Path)],
            "prompt": plain_text(example.prompt),
            **{name: plain_text(example.responses[name]) for name in (CHOSEN, REJECTED)},
            "reliance": float(reliance[place]),
            "margins": {name: float(margins[place]) for name, margins in values.margins.items()},
            "gains": {name: float(gains[place]) for name, gains in values.gains.items()},
            **(_save_pictures(out, items[place], rank, items.seed, corruption) if is_shown else {}),
        }


def _describe_tokens(
    prepare: Preparer, example: PreferenceExample, scored: Sequence[Sequence[Float[Tensor, "_"]]], rank: int
) -> dict[str, Any]:
    """Returns chosen and rejected of a pair token by token, for JSON; `scored` are policy and, if any, reference."""
    answers = {}
    for response in (CHOSEN, REJECTED):
        of_models = [
            {cell.image: of_cells[place] for place, cell in enumerate(prepare.cells) if cell.response == response}
            for of_cells in scored
        ]
        answers[response] = describe_tokens(place_tokens(prepare, example, response, *of_models), CONDITIONS)
    return {"rank": rank, "id": example.id, "answers": answers}


def _save_pictures(out: Path, item: Item, rank: int, seed: int, corruption: Corruption) -> dict[str, str]:
    """Saves the first image of a pair, and the corrupted and the other example's image that it was compared with.

    The copies are small enough for a page; small pictures keep their pixels.
    """
    example, original = item.example, open_image(item.example.images[0])
    pictures = {"picture": (f"pictures/{rank}.png", original)}
    if example.rejected_images:
        pictures["corrupted_picture"] = (f"pictures/{rank}_corrupted.png", open_image(example.rejected_images[0]))
    elif not corruption.needs_other_image:
        made = corrupt_image(corruption, original, run_seed=seed, example_id=example.id, image_index=0)
        pictures["corrupted_picture"] = (f"pictures/{rank}_corrupted.png", made)
    if item.other_images:
        pictures["other_picture"] = (f"pictures/{rank}_other.png", open_image(item.other_images[0]))
    (out / "pictures").mkdir(exist_ok=True)
    for name, picture in pictures.values():
        copy = picture.copy()
        copy.thumbnail((320, 320), Resampling.LANCZOS)
        copy.save(out / name)
    return {key: name for key, (name, _) in pictures.items()}


def write_result(
    options: DiagnosisOptions, kind: str, count: int, left_out: Sequence[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes diagnosis.json and returns its content."""
    of_run = {"left_out": left_out, "options": {**options.record(), "shown": SHOWN}, "versions": versions()}
    result = {"kind": kind, "pairs": count, **found, **of_run}
    write_json(options.out / RESULT, result)
    return result
