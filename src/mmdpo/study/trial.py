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
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER, PairScores, make_pair_collator
from mmdpo.files import digest_of, read_json, write_json, write_rows
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import disable_dropout
from mmdpo.records import NO_IMAGE, ORIGINAL, Cell, derive_generator
from mmdpo.study.measures import MEASURES, OF_PREFERENCES, measure_benchmark, measure_pairs, measure_scenes
from mmdpo.study.study_file import PROCESSOR_OPTIONS, StudyEvaluation, Variant
from mmdpo.study.variants import HeldOut, ask, make_world_pairs, train_variant
from mmdpo.training.recipe import Recipe
from mmdpo.training.run import WORLD_SPLITS, read_data, read_examples
from mmdpo.world import SMALL, WORLDS, find_world
from mmdpo.world.scenes import Scene, draw_test_scenes

RESULT, FAILURE, PAIRS, MODEL = "trial.json", "failure.json", "pairs.jsonl", "model"
CONDITIONS = (ORIGINAL, OTHER, NO_IMAGE)
"""Image versions that held-out pairs are scored under."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
DECIDING = (
    *("records.py", "benchmarks", "corruption", "data", "models", "generation", "objective", "scoring", "training"),
    *("world", "diagnosis/pair_scores.py", "study/measures.py", "study/trial.py", "study/variants.py"),
)
"""The parts of this package that a trial's numbers come from; the others arrange and print them."""
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

    @property
    def is_of_small_world(self) -> bool:
        """Whether it trains the small world's model, which gains nothing from a second thread."""
        return bool(self.variant.options.get("model_name_or_path") == SMALL.name)

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


# -- what decides a trial ----------------------------------------------------------------------------------------------


def digest_trial(variant: Variant, seed: int, evaluation: StudyEvaluation, *, keeps_model: bool) -> str:
    """Returns the digest of what decides a trial: options, seed, evaluation, files, code and libraries.

    A trial whose digest is another is run again. Files of a folder (a model, a dataset) are known by name, size and
    time of change, single files by their content. Pictures that a dataset names by their paths are not looked at.
    """
    named = [variant.options.get(key) for key in PATHS]
    named += [evaluation.dataset_name, *(entry.get("data_dir") for entry in evaluation.benchmarks)]
    content = {
        "variant": {key: value for key, value in asdict(variant).items() if key not in ("name", "about")},
        "seed": seed,
        "evaluation": asdict(evaluation),
        "keeps_model": keeps_model,
        "files": {str(name): _digest_named(str(name)) for name in named if name is not None},
        "code": digest_code(),
        "libraries": library_versions(),
    }
    return digest_of(content)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that compute."""
    return {name: version(name) for name in LIBRARIES}


@cache
def digest_code() -> str:
    """Returns the digest of the parts of this package that decide numbers."""
    root, total = Path(str(files("mmdpo"))), hashlib.sha256()
    for part in DECIDING:
        inside = [root / part] if part.endswith(".py") else sorted((root / part).rglob("*"))
        sources = [path for path in inside if path.is_file() and path.suffix != ".pyc"]
        assert sources, f"there is no {part}"
        for path in sources:
            total.update(f"{path.relative_to(root)}\x1f".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _digest_named(name: str) -> str:
    """Returns the digest of what an option names; nothing for what is neither file nor folder, as a name of the hub.

    Raises FileNotFoundError for a world that has yet to be built.
    """
    world = find_world(name)
    if world is SMALL:
        return ""  # it ships with the code
    path = Path(name) if world is None else world.checkpoint
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = {str(p.relative_to(path)): p.stat() for p in sorted(path.rglob("*")) if p.is_file()}
    return digest_of({name: [facts.st_size, facts.st_mtime_ns] for name, facts in inside.items()}) if inside else ""


# -- how it is run -----------------------------------------------------------------------------------------------------


def run_trial(trial: Trial, folder: Path, report: Report) -> None:
    """Trains and measures a variant, and writes all that is to be kept into `folder`; trial.json last.

    Raises what training and measuring raise.
    """
    recipe = trial.variant.recipe(folder, trial.seed)
    values = {**recipe.resolved(), "output_dir": str(trial.folder)}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    recipe = replace(recipe, training=recipe.options())
    args = recipe.training
    began = time.perf_counter()
    model, processor, facts = _load_start(recipe) if trial.start is None else _train(trial, recipe, report)
    trained = time.perf_counter()
    report(0, 0, "measuring")
    held_out = _gather_held_out(trial, recipe, processor, model.config)
    with torch.autocast(args.device.type, torch.bfloat16) if args.bf16 else nullcontext():  # as training scored
        answers = ask(model, held_out)
    metrics: dict[str, float | None] = {}
    if held_out.scenes:
        metrics |= measure_scenes(held_out.scenes, answers.captions)
        _write_captions(folder / trial.evaluation.world, held_out.scenes, answers.captions, trial.seed)
    if answers.scores is not None:
        start = answers.scores if trial.start is None else read_scores(trial.start / PAIRS)
        metrics |= measure_pairs(answers.scores, start, args.beta)
        _write_scores(folder / PAIRS, held_out.pairs, answers.scores)
        if trial.start is None:
            metrics |= dict.fromkeys(OF_PREFERENCES)
    if trial.start is not None:
        metrics["time/train"] = trained - began
    measures = {name: MEASURES[name] for name in metrics}
    model = release_memory(model)
    for benchmark in trial.evaluation.benchmarks:
        report(0, 0, f"answering {benchmark['name']}")
        options, place = _benchmark_options(trial, recipe, benchmark), folder / "eval" / benchmark["name"]
        model_name = str(recipe.model.model_name_or_path if trial.start is None else folder / MODEL)
        for name, (value, measure) in measure_benchmark(options, model_name, place).items():
            metrics[name], measures[name] = value, measure
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


class _ReportSteps(TrainerCallback):
    """Reports steps and loss."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.note = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the step."""
        self.report(state.global_step, state.max_steps, self.note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Remembers the loss."""
        if logs and "loss" in logs:
            self.note = f"loss {float(logs['loss']):.3f}"


def _load_start(recipe: Recipe) -> tuple[Any, Any, dict[str, Any]]:
    args = recipe.training
    start = resolve_start(recipe.model.model_name_or_path, args.load_options())
    processor, model = load_processor(start), load_model(start)
    disable_dropout(model)
    is_placed = recipe.model.load_in_4bit or recipe.model.load_in_8bit  # by bitsandbytes
    return model if is_placed else model.to(args.device), processor, {}


def _train(trial: Trial, recipe: Recipe, report: Report) -> tuple[Any, Any, dict[str, Any]]:
    pairs, eval_pairs = _gather_pairs(trial, recipe)
    trainer = train_variant(
        recipe.model.model_name_or_path,
        recipe.training,
        pairs,
        eval_pairs=eval_pairs,
        peft_config=get_peft_config(recipe.model),
        callbacks=[_ReportSteps(report)],
    )
    if trial.keep_model or trial.evaluation.benchmarks:
        trainer.save_model(str(Path(recipe.training.output_dir) / MODEL))
    facts = {"pairs": len(trainer.train_dataset), "steps": trainer.state.global_step}
    return trainer.model, trainer.processing_class, facts


def _gather_pairs(trial: Trial, recipe: Recipe) -> tuple[PreferenceDataset, PreferenceDataset | None]:
    """Returns the training pairs, and those that the recipe itself evaluates on while training."""
    world = find_world(recipe.script.dataset_name)
    if world is not None:
        count = trial.variant.pairs or WORLD_SPLITS["train"][0]
        pairs, eval_pairs = make_world_pairs(count, trial.seed, "preference", trial.variant.decided_by, world), None
    else:
        pairs, eval_pairs = read_data(recipe)
    if trial.variant.fraction < 1:
        count = max(1, round(trial.variant.fraction * len(pairs)))
        # One order for all fractions, so that a larger one holds the smaller ones.
        order = derive_generator(trial.seed, "", "fraction").permutation(len(pairs))
        pairs = pairs.select(sorted(order[:count].tolist()))
    return pairs, eval_pairs


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
            evaluation.dataset_split,
            config=recipe.script.dataset_config,
            format=args.dataset_format,
            image_root=args.image_root,
            seed=args.seed,
        )
        pairs = found[: evaluation.pairs]
    return HeldOut(
        scenes=draw_test_scenes(evaluation.scenes, trial.seed, WORLDS[evaluation.world]),
        pairs=pairs,
        collator=make_pair_collator(processor, config, CONDITIONS, seed=trial.seed, max_length=args.max_length),
        batch_size=evaluation.batch_size,
    )


def _benchmark_options(trial: Trial, recipe: Recipe, benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of `mmdpo eval`, for the start with those of its processor.

    A trained model was saved with the processor that it was trained with; the start's is made as training made it.
    """
    own = {name: getattr(recipe.training, name) for name in PROCESSOR_OPTIONS} if trial.start is None else {}
    return {key: value for key, value in own.items() if value} | dict(benchmark)


# -- what it leaves ----------------------------------------------------------------------------------------------------


def _write_captions(folder: Path, scenes: Sequence[Scene], captions: Sequence[str], seed: int) -> None:
    """Writes captions and the counts that their measures are sums of, scene by scene, as `mmdpo eval world` does."""
    items, score = make_items(scenes, seed), WorldBenchmark(scenes[0].world).score
    said = list(zip(items, captions, strict=True))
    folder.mkdir()
    write_rows(folder / "answers.jsonl", ({"id": item.id, "answer": caption} for item, caption in said))
    counts = ({"id": i.id, "part": i.part, "image": i.image, **asdict(score(i, caption))} for i, caption in said)
    write_rows(folder / "scores.jsonl", counts)


def _write_scores(path: Path, pairs: Iterable[Any], scores: PairScores) -> None:
    columns = {f"{cell.image}/{cell.response}": values.tolist() for cell, values in scores.by_cell.items()}
    rows = (
        {"id": example.id, **{name: values[place] for name, values in columns.items()}}
        for place, example in enumerate(pairs)
    )
    write_rows(path, rows)


def read_scores(path: Path) -> PairScores:
    """Returns what a trial's model says of the held-out pairs. Raises OSError for a file that is not there."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in rows[0] if name != "id"]
    return PairScores({Cell(*name.split("/")): torch.tensor([row[name] for row in rows]) for name in names})
