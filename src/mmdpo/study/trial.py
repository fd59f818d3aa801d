"""A trial: one variant with one seed, trained and measured into one folder.

trial.json           what was measured, and the digest of all that decides it
trainer_state.json   the log of its training
recipe.yaml          every key of its recipe; `mmdpo train --config` repeats the training
pairs.jsonl          log-probabilities of every held-out pair, by cell
WORLD/               answers and counts of every scene, as `mmdpo eval` writes them
eval/BENCHMARK/      answers, scores and result of a benchmark
model/               the trained model, where it is kept
log.txt              what the process printed
failure.json         instead of trial.json, where it failed
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import release_memory
from transformers import TrainerCallback
from trl import get_peft_config

from mmdpo.benchmarks.tasks._world import WorldBenchmark, make_items
from mmdpo.data.examples import WORLD_SPLITS, read_examples
from mmdpo.data.read import has_splits, only_split
from mmdpo.diagnosis.pair_scores import OTHER, PairScores, make_pair_collator
from mmdpo.files import digest_of, read_json, write_json, write_rows
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import disable_dropout
from mmdpo.records import NO_IMAGE, ORIGINAL, Cell, derive_generator
from mmdpo.study.own_pairs import FOLDER, OwnPairs, answer_prompts, are_answered, make_pairs_of_round
from mmdpo.study.study_file import PROCESSOR_OPTIONS, StudyEvaluation, Variant
from mmdpo.study.variants import (
    MEASURES,
    OF_PREFERENCES,
    HeldOut,
    make_world_pairs,
    measure_benchmark,
    measure_captions,
    measure_pairs,
    train_variant,
)
from mmdpo.training.recipe import Recipe
from mmdpo.training.run import read_data
from mmdpo.world import SMALL, WORLDS, find_world
from mmdpo.world.scenes import Scene, draw_test_scenes

RESULT, FAILURE, PAIRS, MODEL = "trial.json", "failure.json", "pairs.jsonl", "model"
DECIDING = (
    *("records.py", "texts.py", "upright.py", "diagnosis/pair_scores.py", "diagnosis/shortcut.py"),
    "diagnosis/estimates.py",
    *("study/trial.py", "study/variants.py", "benchmarks/**/*", "evaluation/**/*", "judges/**/*"),
    *("study/own_pairs.py", "study/noisy_judges.py", "study/crop_controls.py", "pairs/**/*"),
    *("corruption/**/*", "data/**/*", "models/**/*", "generation/**/*", "objective/**/*", "scoring/**/*"),
    *("training/**/*", "world/**/*"),
)
"""The parts of this package that a trial's numbers come from; the others arrange and print them."""
UNDECIDING = ("name", "about", "own_keys", "tuned_as")
"""What a variant says that its outcome does not depend on."""
PATHS = ("model_name_or_path", "adapter_name_or_path", "dataset_name", "eval_dataset_name", "chat_template")
"""Options that may name files."""

Report = Callable[[int, int, str], None]
"""Receives how many steps of how many are done, and a note to show."""


@dataclass(frozen=True)
class Trial:
    """One variant with one seed."""

    variant: Variant
    seed: int
    evaluation: StudyEvaluation
    folder: Path
    """Its place once it is finished."""
    digest: str
    """Of what decides its outcome, see `digest_trial`."""
    start: Path | None
    """Folder of the start's trial with this seed; None for the start itself."""
    keep_model: bool = False

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def aside(self) -> Path:
        """Where it is written before it is finished."""
        return self.folder.with_name(f".{self.folder.name}.partial")

    def read(self, name: str) -> dict[str, Any]:
        """Returns trial.json or failure.json of this very trial; nothing where it is missing, damaged or another's."""
        try:
            content = read_json(self.folder / name)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and content.get("digest") == self.digest else {}

    def is_finished(self) -> bool:
        """Says whether the folder holds the result of this very trial."""
        return bool(self.read(RESULT))


def digest_trial(variant: Variant, seed: int, evaluation: StudyEvaluation, *, keeps_model: bool, is_start: bool) -> str:
    """Returns the digest of what decides a trial: options, seed, evaluation, files, code and libraries.

    The start, which is measured untrained, differs from the variant that is trained with the same options.

    A trial whose digest is another is run again. Files of a folder (a model, a dataset) are known by name, size and
    time of change, single files by their content. Pictures that a dataset names by their paths are not looked at.
    """
    named = [variant.options.get(key) for key in PATHS]
    named += [evaluation.dataset_name, *(entry.get("data_dir") for entry in evaluation.benchmarks)]
    content = {
        "variant": {key: value for key, value in asdict(variant).items() if key not in UNDECIDING},
        "seed": seed,
        "evaluation": asdict(evaluation),
        "keeps_model": keeps_model,
        "is_start": is_start,
        "files": {str(name): _digest_named(str(name)) for name in named if name is not None},
        "code": digest_code(),
        "libraries": library_versions(),
    }
    return digest_of(content)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that compute."""
    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")}


@cache
def digest_code() -> str:
    """Returns the digest of the parts of this package that decide numbers."""
    root = Path(str(files("mmdpo")))
    inside = {part: [path for path in root.glob(part) if path.is_file() and path.suffix != ".pyc"] for part in DECIDING}
    assert all(inside.values()), "a part has another name now"
    sources = (path for paths in inside.values() for path in paths)
    return digest_of({path.relative_to(root).as_posix(): _digest_file(path) for path in sources})


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_named(name: str) -> str:
    """Returns the digest of what an option names; nothing for what is neither file nor folder, as a name of the hub.

    Raises FileNotFoundError for a world that has yet to be built.
    """
    world = find_world(name)
    if world is SMALL:
        return ""  # it ships with the code
    path = Path(name) if world is None else world.checkpoint
    if path.is_file():
        return _digest_file(path)
    inside = {str(p.relative_to(path)): p.stat() for p in sorted(path.rglob("*")) if p.is_file()}
    return digest_of({name: [facts.st_size, facts.st_mtime_ns] for name, facts in inside.items()}) if inside else ""


def run_trial(trial: Trial, folder: Path, report: Report) -> None:
    """Trains and measures a variant, and writes all that is to be kept into `folder`; trial.json last.

    Raises what training and measuring raise.
    """
    recipe = trial.variant.recipe(folder, trial.seed)
    values = {**recipe.resolved(), "output_dir": str(trial.folder)}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    recipe = replace(recipe, training=recipe.options())
    args, evaluation, is_start = recipe.training, trial.evaluation, trial.start is None
    began = time.perf_counter()
    model, processor, facts, own = _load_start(recipe) if is_start else _train(trial, recipe, report)
    if is_start and trial.variant.own_pairs is not None:
        report(0, 0, "answering prompts for own pairs")
        own_world = WORLDS[evaluation.world]
        answer_prompts(
            str(recipe.model.model_name_or_path), trial.variant.own_pairs, trial.seed, 1, own_world, folder / FOLDER
        )
    trained = time.perf_counter()
    report(0, 0, "measuring")
    held_out = _gather_held_out(trial, recipe, processor, model.config)
    with torch.autocast(args.device.type, torch.bfloat16) if args.bf16 else nullcontext():  # as training scored
        captions, scores = held_out.ask(model)
    metrics: dict[str, float | None] = dict(own)
    if held_out.scenes:
        metrics |= measure_captions(held_out.scenes, captions)
        _write_captions(folder / evaluation.world, held_out.scenes, captions, trial.seed)
    if scores is not None:
        metrics |= measure_pairs(scores, _read_scores(trial.start / PAIRS) if trial.start else scores, args.beta)
        columns = {f"{cell.image}/{cell.response}": values.tolist() for cell, values in scores.by_cell.items()}
        ids = [example.id for example in held_out.pairs]
        rows = zip(ids, *columns.values(), strict=True)
        write_rows(folder / PAIRS, (dict(zip(("id", *columns), row, strict=True)) for row in rows))
        if is_start:
            metrics |= dict.fromkeys(OF_PREFERENCES)
    if not is_start:
        metrics["time/train"] = trained - began
    measures = {name: MEASURES[name] for name in metrics}
    model = release_memory(model)
    own_options = _open_start(recipe) if is_start else {}  # a trained model was saved as it is
    model_name = str(recipe.model.model_name_or_path if is_start else folder / MODEL)
    for benchmark in evaluation.benchmarks:
        report(0, 0, f"answering {benchmark['name']}")
        found = measure_benchmark(own_options | dict(benchmark), model_name, folder / "eval" / benchmark["name"])
        metrics |= {name: value for name, (value, _) in found.items()}
        measures |= {name: measure for name, (_, measure) in found.items()}
    if not trial.keep_model:
        shutil.rmtree(folder / MODEL, ignore_errors=True)
    result = dict(
        variant=trial.variant.name,
        seed=trial.seed,
        digest=trial.digest,
        metrics=metrics,
        measures={name: asdict(measure) for name, measure in measures.items()},
        seconds={"training": trained - began, "measuring": time.perf_counter() - trained},
        **facts,
    )
    write_json(folder / RESULT, result)


def _open_start(recipe: Recipe) -> dict[str, Any]:
    """Returns the options by which `mmdpo eval` opens the start, its processor too, as training opens it."""
    given = {name: getattr(recipe.training, name) for name in (*PROCESSOR_OPTIONS, "trust_remote_code", "allow_pickle")}
    return {**given, "adapter": recipe.training.adapter_name_or_path, "revision": recipe.model.model_revision}


class _ReportSteps(TrainerCallback):
    def __init__(self, report: Report) -> None:
        self.report, self.note = report, ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps, self.note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {float(logs['loss']):.3f}"


def _load_start(recipe: Recipe) -> tuple[Any, Any, dict[str, Any], dict[str, float | None]]:
    start = resolve_start(recipe.model.model_name_or_path, recipe.training.load_options())
    processor, model = load_processor(start), load_model(start)
    disable_dropout(model)
    is_placed = recipe.model.load_in_4bit or recipe.model.load_in_8bit  # by bitsandbytes
    return model if is_placed else model.to(recipe.training.device), processor, {}, {}


def _train(trial: Trial, recipe: Recipe, report: Report) -> tuple[Any, Any, dict[str, Any], dict[str, float | None]]:
    """Returns the trained model, its processor, facts for trial.json, and what its own pairs are like."""
    world, variant = find_world(recipe.script.dataset_name), trial.variant
    if variant.own_pairs is not None:
        return _train_rounds(trial, recipe, variant.own_pairs, report)
    if world is not None:
        count = variant.pairs or WORLD_SPLITS["train"][0]
        kind, per_scene = variant.decided_by, variant.pairs_per_scene
        pairs, eval_pairs = make_world_pairs(count, trial.seed, "preference", kind, world, per_scene), None
    else:
        pairs, eval_pairs = read_data(recipe)
    if variant.fraction < 1:
        count = max(1, round(variant.fraction * len(pairs)))
        # One order for all fractions, so that a larger one holds the smaller ones.
        order = derive_generator(trial.seed, "", "fraction").permutation(len(pairs))
        pairs = pairs.select(sorted(order[:count].tolist()))
    trainer = train_variant(
        recipe.model.model_name_or_path,
        recipe.training,
        pairs,
        [_ReportSteps(report)],
        eval_dataset=eval_pairs,
        peft_config=get_peft_config(recipe.model),
    )
    if trial.keep_model or trial.evaluation.benchmarks:
        trainer.save_model(str(Path(recipe.training.output_dir) / MODEL))
    facts = {"pairs": len(trainer.train_dataset), "steps": trainer.state.global_step}
    return trainer.model, trainer.processing_class, facts, {}


def _train_rounds(
    trial: Trial, recipe: Recipe, own: OwnPairs, report: Report
) -> tuple[Any, Any, dict[str, Any], dict[str, float | None]]:
    """Trains on pairs of own answers, each round from where the one before it ended.

    What the pairs are like is told of the last round.
    """
    world = find_world(recipe.script.dataset_name)
    assert world is not None
    assert trial.start is not None
    start = current = str(recipe.model.model_name_or_path)
    folder = Path(recipe.training.output_dir)
    steps = count = 0
    found: dict[str, float | None] = {}
    for number in range(1, own.rounds + 1):
        place = folder / FOLDER / str(number)
        answered = trial.start / FOLDER
        if number > 1 or not are_answered(own, answered):
            report(0, 0, f"round {number}: answering")
            answered = place
            answer_prompts(start if own.answers == "start" else current, own, trial.seed, number, world, place)
        pairs, found = make_pairs_of_round(own, trial.seed, number, world, place, answered, trial.variant.pairs)
        reference = None
        if number > 1 and own.reference == "start":
            reference = load_model(resolve_start(start, recipe.training.load_options()))
        trainer = train_variant(
            current,
            recipe.training,
            pairs,
            [_ReportSteps(report)],
            ref_model=reference,
            peft_config=get_peft_config(recipe.model),
        )
        steps, count = steps + trainer.state.global_step, count + len(trainer.train_dataset)
        if number < own.rounds or trial.keep_model or trial.evaluation.benchmarks:
            current = str(folder / (MODEL if number == own.rounds else f"{MODEL}-{number}"))
            trainer.save_model(current)
        shutil.rmtree(place, ignore_errors=True)
    for number in range(1, own.rounds):
        shutil.rmtree(folder / f"{MODEL}-{number}", ignore_errors=True)
    return trainer.model, trainer.processing_class, {"pairs": count, "steps": steps}, found


def _gather_held_out(trial: Trial, recipe: Recipe, processor: Any, config: Any) -> HeldOut:
    evaluation, args = trial.evaluation, recipe.training
    pairs: Any = ()
    world, name = find_world(evaluation.dataset_name), evaluation.dataset_name
    if world is not None:
        count = evaluation.pairs or WORLD_SPLITS["test"][0]
        pairs = make_world_pairs(count, trial.seed, "held-out", evaluation.decided_by, world)
    elif name is not None:
        found = read_examples(
            name,
            only_split(name, evaluation.dataset_split),
            config=recipe.script.dataset_config if has_splits(name) else None,
            format=args.dataset_format,
            image_root=args.image_root,
            seed=args.seed,
        )
        pairs = found[: evaluation.pairs]
    scenes = draw_test_scenes(evaluation.scenes, trial.seed, WORLDS[evaluation.world])
    images = (ORIGINAL, OTHER, NO_IMAGE)
    collator = make_pair_collator(processor, config, images, seed=trial.seed, max_length=args.max_length)
    return HeldOut(scenes, pairs, collator, evaluation.batch_size)


def _write_captions(folder: Path, scenes: Sequence[Scene], captions: Sequence[str], seed: int) -> None:
    """Writes captions and the counts that their measures are sums of, scene by scene, as `mmdpo eval world` does."""
    items, score = make_items(scenes, seed), WorldBenchmark(scenes[0].world).score
    said = list(zip(items, captions, strict=True))
    folder.mkdir()
    write_rows(folder / "answers.jsonl", ({"id": item.id, "answer": caption} for item, caption in said))
    counts = ({"id": i.id, "part": i.part, "image": i.image, **asdict(score(i, caption))} for i, caption in said)
    write_rows(folder / "scores.jsonl", counts)


def _read_scores(path: Path) -> PairScores:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in rows[0] if name != "id"]
    return PairScores({Cell(*name.split("/")): torch.tensor([row[name] for row in rows]) for name in names})
