"""Measures steps on pairs that share a picture: `python -m perf.pictures`. One thread, float32, one process.

A micro-batch of four pairs is made twice: as if each pair had a picture of its own, which is what a step cost before
trees spanned pairs, and as the collator makes it. Losses and gradients of both must agree. Data without repetition give
the same rows either way; they are timed with the collator that looks for repetition and without. CPU seconds of the one
thread are counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from datasets import Dataset

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.prepare import Opened
from mmdpo.scoring.reference import Precomputed
from perf.command import make_parser, read_options, write_measured
from perf.measure import Sizes, cpu_clock, profile_step, time_interleaved, time_step
from perf.record import describe_run, summarise
from perf.rows import build_processor, draw_lengths, make_rows
from perf.shapes import BODY, TINY, Lengths, Shape
from perf.sides import Setting, Side, build_model, check_agreement, compare, lora_of, move_adapter, options_of
from perf.versions import add_before, compare_versions, take_turns

PAIRS = 4
SEED = 0
QUESTIONS, ANSWERS, DISTINCT = KINDS = ("questions", "answers", "distinct")
"""Four questions about a picture; four pairs of answers to one question about it; four pictures."""
LENGTHS = {"body": BODY.lengths, "short": Lengths(answer=(20, 80))}
"""Answers of the shape that all measurements have, and of a sentence or three."""
DPO, MDPO, ONE_CROP = "dpo", "mdpo", "mdpo, one crop a picture"
OBJECTIVES = {
    DPO: dict(objective="dpo"),
    MDPO: dict(objective="mdpo"),
    ONE_CROP: dict(objective="mdpo", corruption_draw="picture"),
}
CASES = {
    ("body", DPO): KINDS,
    ("body", ONE_CROP): (QUESTIONS, ANSWERS),
    ("body", MDPO): (QUESTIONS, DISTINCT),
    ("short", DPO): (QUESTIONS,),
    ("short", ONE_CROP): (QUESTIONS,),
}
APART, TOGETHER = "apart", "together"
TARGET = 2.0
"""How many times faster a step on four pairs of one picture is meant to be."""


def main() -> None:
    """Measures, and writes a results file."""
    parser = make_parser(__doc__, 5, tiny="miniature shapes")
    add_before(parser)
    options = read_options(parser)
    torch.set_num_threads(1)
    shape = TINY if options.tiny else BODY
    lengths = {"body": TINY.lengths} if options.tiny else LENGTHS
    if options.turns:
        length, objective, kind = options.turns
        rows = make_pairs(shape, lengths[length], kind)
        sides = make_sides(build_trainer(shape, rows, objective), rows)
        take_turns(lambda: {name: time_step(side, cpu_clock) for name, side in sides.items()})
        return
    result = describe_run("cpu") | {"kind": "pictures", "miniature": options.tiny, "pairs": PAIRS, "cases": []}
    result |= {"shape": shape.describe(), "lengths": {name: asdict(spans) for name, spans in lengths.items()}}
    result["load_before"] = os.getloadavg()[0]
    for (name, objective), kinds in CASES.items():
        if name in lengths:
            result["cases"] += measure_objective(shape, name, lengths[name], objective, kinds, options.repetitions)
    for case in result["cases"] if options.before is not None else ():
        measured = [*(["--tiny", "--output", os.devnull] if options.tiny else []), "--turns"]
        measured += [case["lengths"], case["objective"], case["data"]]
        case["turns"] = compare_versions("perf.pictures", options.before, measured, options.repetitions)
    write_measured(result, options, "pictures")


def measure_objective(
    shape: Shape, length: str, spans: Lengths, objective: str, kinds: Sequence[str], repetitions: int
) -> list[dict[str, Any]]:
    """Returns times and operations of both ways to make a batch, for every kind of data."""
    trainer: Any = None
    cases = []
    for kind in kinds:
        rows = make_pairs(shape, spans, kind)
        trainer = trainer or build_trainer(shape, rows, objective)
        sides = make_sides(trainer, rows)
        profiles = {}

        def step(side: Side) -> float:
            profiles[side.name] = profile_step(side, Sizes.of(shape))  # noqa: B023
            return float(profiles[side.name].loss)  # noqa: B023

        check_agreement(compare(sides, (tuple(sides),), step))
        times = time_interleaved(sides, repetitions, cpu_clock)
        case: dict[str, Any] = {"lengths": length, "objective": objective, "data": kind, "sides": {}}
        for name, seconds in times.items():
            operations = sum(profiles[name].flops.values())
            peak = profiles[name].peak_bytes
            case["sides"][name] = {"time": summarise(seconds), "each": seconds, "flops": operations, "peak_bytes": peak}
        case["collate_seconds"] = time_collating(trainer, rows)
        apart, together = (case["sides"][name] for name in (APART, TOGETHER))
        ratios = [apart["flops"] / together["flops"], apart["time"]["median"] / together["time"]["median"]]
        print(f"{length} {objective}, {kind}: operations {ratios[0]:.2f}, time {ratios[1]:.2f}", flush=True)
        cases.append(case)
    return cases


def make_pairs(shape: Shape, spans: Lengths, kind: str) -> Dataset:
    """Returns the pairs of one micro-batch."""
    rows = list(make_rows(shape, draw_lengths(spans, PAIRS, SEED), SEED))
    for row in rows[1:]:
        if kind != "distinct":
            row["images"] = rows[0]["images"]
        if kind == "answers":
            row["prompt"] = rows[0]["prompt"]
    return Dataset.from_list(rows)


def build_trainer(shape: Shape, rows: Dataset, objective: str) -> MDPOTrainer:
    """Returns a trainer whose references are in the batch, as a run has them that was scored before."""
    setting = Setting()
    model = build_model(shape, setting)
    chosen: dict[str, Any] = dict(precompute_ref_log_probs=False, check_data="text", **OBJECTIVES[objective])
    args = MDPOConfig(**options_of(setting, PAIRS), **chosen)
    trainer = MDPOTrainer(
        model,
        args=args,
        train_dataset=rows,
        processing_class=build_processor(shape),
        peft_config=lora_of(shape, model),
    )
    move_adapter(trainer.model)
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    trainer.reference = Precomputed(trainer.objective.reference_cells, trainer._live_reference)
    return trainer


def make_sides(trainer: Any, rows: Dataset) -> dict[str, Side]:
    """Returns a step on the rows for both ways to make a batch."""
    return {name: make_side(trainer, rows, name) for name in (APART, TOGETHER)}


def make_side(trainer: Any, rows: Dataset, name: str) -> Side:
    """Returns a step over the rows whose references are given, with or without what pairs share."""
    items = trainer._make_items(rows, "rows", trainer.data_collator, trainer.args)
    batch = collate(trainer, [items[place] for place in range(len(items))], together=name == TOGETHER)
    cells = trainer.objective.reference_cells
    with torch.no_grad():
        given = trainer._live_reference(batch, cells, policy=trainer.model, memo={})
    given_batch = {**batch, "ref_logprobs": given.T.contiguous()}

    def step() -> torch.Tensor:
        loss: torch.Tensor = trainer.training_step(trainer.model, dict(given_batch))
        return loss

    return Side(name, trainer.model, step)


def collate(trainer: Any, items: list[Any], *, together: bool) -> Any:
    """Returns the batch; pictures are opened for each pair on its own where nothing shall be shared."""
    collator, opened = trainer.data_collator, Opened()
    return collator.collate([collator.prepare(item, opened if together else None) for item in items])


def time_collating(trainer: Any, rows: Dataset) -> dict[str, float]:
    """Returns the CPU seconds of making the batch, the less of several tries."""
    items = trainer._make_items(rows, "rows", trainer.data_collator, trainer.args)
    drawn = [items[place] for place in range(len(items))]
    found = {}
    for name in (APART, TOGETHER):
        tries = []
        for _ in range(5):
            start = time.process_time()
            collate(trainer, drawn, together=name == TOGETHER)
            tries.append(time.process_time() - start)
        found[name] = min(tries)
    return found


if __name__ == "__main__":
    main()
