"""The quickstart: start, DPO, mDPO and supervised training on the embedded world, on the same pairs."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import AutoProcessor, PrinterCallback

from mmdpo.corruption import corrupt_image, load
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.report.figures import draw_curves, draw_scenes
from mmdpo.report.page import write_page
from mmdpo.report.terminal import print_results
from mmdpo.study.reliance import PairLogprobs, measure_reliance, score_pairs
from mmdpo.training import build
from mmdpo.training.callbacks import ProgressCallback
from mmdpo.training.config import MDPOConfig
from mmdpo.training.run import prepare_run_folder
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world.evaluate import caption_scenes, compare_caption, score_captions
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs, sample_scenes
from mmdpo.world.scenes import PARTNERS, Scene, render

START = "start"
VARIANTS = ("dpo", "mdpo", "sft_chosen")
"""Objectives that are trained, each from the start."""
CORRUPTION = "crop_0_20"


@dataclass(frozen=True)
class QuickstartPlan:
    """Sizes of the quickstart; the defaults are those of the world's measured recipe."""

    seed: int = 0
    pairs: int = 768
    held_out_pairs: int = 256
    scenes: int = 400
    shown_scenes: int = 6
    epochs: float = 2


@dataclass(frozen=True)
class _Evaluation:
    """The held-out material that every variant is measured on."""

    scenes: Sequence[Scene]
    pairs: PreferenceDataset
    processor: Any
    seed: int


def run_quickstart(output_dir: str | Path, plan: QuickstartPlan, console: Console) -> dict[str, Any]:
    """Trains and measures the variants, writes results.json, pictures and report.html, and returns the results.

    Raises RunFolderError for an output folder that holds something already.
    """
    began = time.perf_counter()
    folder = prepare_run_folder(output_dir, "give another one (make quickstart RUN=runs/again), or remove it")
    with console.status("making preference pairs and test scenes"):
        pairs = PreferenceDataset.from_rows(make_pairs(plan.pairs, plan.seed), name="world")
        held_out = PreferenceDataset.from_rows(
            make_pairs(plan.held_out_pairs, plan.seed, purpose="held-out"), name="world, held out"
        )
    evaluation = _Evaluation(
        scenes=sample_scenes(plan.scenes, plan.seed),
        pairs=held_out,
        processor=AutoProcessor.from_pretrained(CHECKPOINT),
        seed=plan.seed,
    )
    captions: dict[str, list[str]] = {}
    variants: dict[str, dict[str, float | None]] = {}
    with _show_progress(console) as progress:
        start = build.load_model(build.WORLD, MDPOConfig(output_dir=str(folder)))
        reference = score_pairs(start, evaluation.processor, held_out, seed=plan.seed)
        captions[START] = caption_scenes(start, evaluation.processor, evaluation.scenes, batch_size=100)
        variants[START] = _measure(start, captions[START], reference, reference, evaluation)
        variants[START] |= dict.fromkeys(("accuracy_real", "accuracy_other"))  # no reward yet, so no preference
        for name in VARIANTS:
            model = _train(name, pairs, folder / name, plan, progress)
            captions[name] = caption_scenes(model, evaluation.processor, evaluation.scenes, batch_size=100)
            policy = score_pairs(model, evaluation.processor, held_out, seed=plan.seed)
            variants[name] = _measure(model, captions[name], policy, reference, evaluation)
    _write_examples(folder, captions, evaluation.scenes, plan)
    results = dict(
        variants=variants,
        seconds=round(time.perf_counter() - began, 1),
        command="mmdpo quickstart",
        **asdict(plan),
        versions=_versions(),
    )
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_scenes(folder)
    draw_curves(folder)
    page = write_page(folder)
    print_results(results, console)
    console.print(f"\n{results['seconds']:.0f} s. Captions, pictures and curves: {page}")
    return results


def training_options(objective: str, output_dir: str | Path, *, seed: int, epochs: float) -> MDPOConfig:
    """Returns the options that the world's variants are trained with; they differ in the objective alone."""
    return MDPOConfig(
        output_dir=str(output_dir),
        objective=objective,
        corruption=CORRUPTION,
        freeze_projector=False,
        learning_rate=3e-4,
        per_device_train_batch_size=32,
        num_train_epochs=epochs,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=64,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )


def _show_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>20}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _train(name: str, pairs: PreferenceDataset, folder: Path, plan: QuickstartPlan, progress: Progress) -> Any:
    trainer = MDPOTrainer(
        build.WORLD,
        args=training_options(name, folder, seed=plan.seed, epochs=plan.epochs),
        train_dataset=pairs,
        callbacks=[ProgressCallback(progress, f"training {name}")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return trainer.model


def _measure(
    model: Any, captions: list[str], policy: PairLogprobs, reference: PairLogprobs, evaluation: _Evaluation
) -> dict[str, float | None]:
    scores = score_captions(evaluation.scenes, captions)
    return {**asdict(scores), **asdict(measure_reliance(policy, reference))}


def _write_examples(
    folder: Path, captions: dict[str, list[str]], scenes: Sequence[Scene], plan: QuickstartPlan
) -> None:
    """Writes the first test scenes in which an anchor stands without its partner: there the prior tempts."""
    tempting = [
        place for place, scene in enumerate(scenes) if any(PARTNERS.get(n, n) not in scene.names for n in scene.names)
    ]
    (folder / "scenes").mkdir()
    corruption = load(CORRUPTION)
    records = []
    for number, place in enumerate(tempting[: plan.shown_scenes]):
        scene, image = scenes[place], render(scenes[place])
        corrupted = corrupt_image(corruption, image, run_seed=plan.seed, example_id=f"scene-{place}", image_index=0)
        image.save(folder / "scenes" / f"{number}.png")
        corrupted.save(folder / "scenes" / f"{number}_corrupted.png")
        details = {name: compare_caption(scene, texts[place]) for name, texts in captions.items()}
        answers = {
            name: {"text": detail.caption, "hallucinated": list(detail.hallucinated), "missed": list(detail.missed)}
            for name, detail in details.items()
        }
        records.append(
            dict(
                image=f"scenes/{number}.png",
                corrupted_image=f"scenes/{number}_corrupted.png",
                truth=list(scene.names),
                setting=scene.setting,
                answers=answers,
            )
        )
    (folder / "examples.json").write_text(json.dumps(records, indent=2) + "\n")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("mmdpo", "torch", "transformers")}}
