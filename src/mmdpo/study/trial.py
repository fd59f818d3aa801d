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

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import release_memory
from transformers import TrainerCallback
from trl import get_peft_config

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.parts import disable_dropout
from mmdpo.models.start import resolve_start
from mmdpo.records import NO_IMAGE, ORIGINAL, Cell, derive_generator
from mmdpo.study.benchmarks import BenchmarkValue, answer_benchmark
from mmdpo.study.design import Evaluation, Variant
from mmdpo.study.measures import MEASURES, OF_PREFERENCES, count_scenes, measure_pairs, measure_scenes
from mmdpo.study.reliance import OTHER, PairScores
from mmdpo.study.study_file import PROCESSOR_OPTIONS
from mmdpo.study.variants import Answers, HeldOut, ask, make_world_pairs, make_world_scenes, train_variant
from mmdpo.training.config import MDPOConfig
from mmdpo.training.recipe import Recipe
from mmdpo.training.run import WORLD_SPLITS, read_data, read_examples
from mmdpo.world.worlds import SMALL, WORLDS, find_world

RESULT, FAILURE, PAIRS, MODEL = "trial.json", "failure.json", "pairs.jsonl", "model"
CONDITIONS = (ORIGINAL, OTHER, NO_IMAGE)
"""Image versions that held-out pairs are scored under."""

Report = Callable[[int, int, str], None]
"""Told how many steps of how many are done, and what to say of it."""


@dataclass(frozen=True)
class Trial:
    """One variant with one seed."""

    variant: Variant
    seed: int
    evaluation: Evaluation
    folder: Path
    """Where it lies once it is finished."""
    digest: str
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

    def is_finished(self) -> bool:
        """Says whether the folder holds the result of this very trial."""
        return read_json(self.folder / RESULT).get("digest") == self.digest


def read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a file, an empty one where there is none or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping, readable."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def run_trial(trial: Trial, folder: Path, report: Report) -> None:
    """Trains and measures a variant, and writes all that is to be kept into `folder`; trial.json last.

    Raises what training and measuring raise.
    """
    recipe = trial.variant.recipe(folder, trial.seed)
    _write_recipe(recipe, folder, trial)
    recipe = replace(recipe, training=recipe.options())
    began = time.perf_counter()
    model, processor, facts = _load_start(recipe) if trial.start is None else _train(trial, recipe, report)
    trained = time.perf_counter()
    report(0, 0, "measuring")
    held_out = _gather_held_out(trial, recipe, processor)
    with _precision(recipe.training):
        answers = ask(model, held_out)
    metrics = _measure(trial, recipe.training.beta, answers, held_out)
    if trial.start is not None:
        metrics["time/train"] = trained - began
    _write_answers(folder, trial, answers, held_out)
    measures = {name: MEASURES[name] for name in metrics}
    model = release_memory(model)
    for name, found in _answer_benchmarks(trial, recipe, folder, report):
        metrics[name], measures[name] = found.value, found.measure
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
    """Passes steps and loss on."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.note = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Passes the step on."""
        self.report(state.global_step, state.max_steps, self.note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Remembers the loss."""
        if logs and "loss" in logs:
            self.note = f"loss {float(logs['loss']):.3f}"


def _write_recipe(recipe: Recipe, folder: Path, trial: Trial) -> None:
    values = {**recipe.resolved(), "output_dir": str(trial.folder)}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _load_start(recipe: Recipe) -> tuple[Any, Any, dict[str, Any]]:
    args = recipe.training
    start = resolve_start(recipe.model.model_name_or_path, args.load_options())
    processor, model = load_processor(start), load_model(start)
    disable_dropout(model)
    if recipe.model.load_in_4bit or recipe.model.load_in_8bit:
        return model, processor, {}  # bitsandbytes has placed it
    return model.to(args.device), processor, {}


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


def _gather_held_out(trial: Trial, recipe: Recipe, processor: Any) -> HeldOut:
    evaluation, args = trial.evaluation, recipe.training
    pairs: Any = ()
    world = find_world(evaluation.dataset_name)
    if world is not None:
        count = evaluation.pairs or WORLD_SPLITS["test"][0]
        pairs = make_world_pairs(count, trial.seed, "held-out", evaluation.decided_by, world)
    elif evaluation.dataset_name is not None:
        found = read_examples(
            evaluation.dataset_name,
            evaluation.dataset_split,
            config=recipe.script.dataset_config,
            format=args.dataset_format,
            image_root=args.image_root,
            seed=args.seed,
        )
        pairs = found[: evaluation.pairs]
    return HeldOut(
        scenes=make_world_scenes(evaluation.scenes, trial.seed, WORLDS[evaluation.world]) if evaluation.scenes else (),
        pairs=pairs,
        processor=processor,
        seed=trial.seed,
        images=CONDITIONS,
        batch_size=evaluation.batch_size,
        max_length=args.max_length,
    )


def _precision(args: MDPOConfig) -> AbstractContextManager[Any]:
    """Returns the precision that training scored in."""
    return torch.autocast(args.device.type, torch.bfloat16) if args.bf16 else nullcontext()


def _measure(trial: Trial, beta: float, answers: Answers, held_out: HeldOut) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    if held_out.scenes:
        metrics |= measure_scenes(held_out.scenes, answers.captions)
    if answers.scores is not None:
        start = answers.scores if trial.start is None else read_scores(trial.start / PAIRS)
        metrics |= measure_pairs(answers.scores, start, beta)
        if trial.start is None:
            metrics |= dict.fromkeys(OF_PREFERENCES)
    return metrics


def _answer_benchmarks(
    trial: Trial, recipe: Recipe, folder: Path, report: Report
) -> Iterator[tuple[str, BenchmarkValue]]:
    args, is_start = recipe.training, trial.start is None
    model = str(recipe.model.model_name_or_path if is_start else folder / MODEL)
    # A trained model was saved with the processor that it was trained with; the start's is made as training made it.
    own = {name: getattr(args, name) for name in PROCESSOR_OPTIONS} if is_start else {}
    for benchmark in trial.evaluation.benchmarks:
        report(0, 0, f"answering {benchmark['name']}")
        options = {key: value for key, value in own.items() if value} | dict(benchmark)
        yield from answer_benchmark(options, model, folder / "eval" / benchmark["name"]).items()


def _write_answers(folder: Path, trial: Trial, answers: Answers, held_out: HeldOut) -> None:
    if answers.scores is not None:
        columns = {f"{cell.image}/{cell.response}": v.tolist() for cell, v in answers.scores.by_cell.items()}
        rows = (
            {"id": example.id, **{name: values[place] for name, values in columns.items()}}
            for place, example in enumerate(held_out.pairs)
        )
        _write_lines(folder / PAIRS, rows)
    if held_out.scenes:
        counts = count_scenes(held_out.scenes, answers.captions, trial.seed)
        answers_folder = folder / trial.evaluation.world
        answers_folder.mkdir()
        said = ({"id": i.id, "answer": a} for i, a in zip((item for item, _ in counts), answers.captions, strict=True))
        scored = ({"id": i.id, "part": i.part, "image": i.image, **asdict(score)} for i, score in counts)
        _write_lines(answers_folder / "answers.jsonl", said)
        _write_lines(answers_folder / "scores.jsonl", scored)


def read_scores(path: Path) -> PairScores:
    """Returns what a trial's model says of the held-out pairs. Raises OSError for a file that is not there."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in rows[0] if name != "id"]
    return PairScores({Cell(*name.split("/")): torch.tensor([row[name] for row in rows]) for name in names})


def _write_lines(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
