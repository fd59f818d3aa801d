"""`mmdpo train --dry_run`: what a run would train, on how many tokens, and in how much memory, without its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from trl import get_peft_config

from mmdpo.data.collate import Collator
from mmdpo.data.items import Item
from mmdpo.data.stream import PreferenceStream
from mmdpo.models.families import PARTS, Family, find_family
from mmdpo.models.load import build_empty_model, check_model, load_generation_config, load_processor
from mmdpo.models.start import Start, resolve_start
from mmdpo.models.trained import find_added, freeze_others, read_settings, unwrap_adapter
from mmdpo.records import PreferenceExample
from mmdpo.scoring.plan import grow_trees
from mmdpo.tables import Table
from mmdpo.training import assembly
from mmdpo.training.config import MDPOConfig
from mmdpo.training.durable.resume import check_run_folder, find_checkpoint
from mmdpo.training.memory import MemoryLine, MicroBatch, estimate_memory, format_bytes
from mmdpo.training.option_checks import check_optimizer
from mmdpo.training.recipe import Recipe, parse_recipe
from mmdpo.training.rows import check_rows, to_preferences
from mmdpo.training.run import open_stream, read_data
from mmdpo.training.run_plan import RunPlan, count_steps, resolve

ADAPTER_PART = "adapter"


@dataclass(frozen=True)
class PairTokens:
    """What one pair costs: tokens in all its trees, of its longest tree, and of the answers in them."""

    tokens: int
    longest: int
    answers: int
    trees: int


@dataclass(frozen=True)
class PartCount:
    """Parameters of a part of the model."""

    part: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class DryRun:
    """What a recipe comes to: its plan, on this data and this model."""

    plan: RunPlan

    model_class: str
    family: str
    decoder: str
    parts: tuple[PartCount, ...]
    adapter: str
    rows: str
    """Whether cells share rows, and if not, why."""
    reference: str
    pairs: int
    skipped: int
    eval_pairs: int | None
    pairs_per_step: int
    how_pairs: str
    steps_per_epoch: int | None
    """None for a stream, which has no length; its first rows were tried alone."""
    steps: int
    tokens: tuple[PairTokens, ...]
    batch: MicroBatch
    memory: tuple[MemoryLine, ...]

    @property
    def tokens_per_step(self) -> float:
        """Mean over the data, without padding."""
        return self.pairs_per_step * sum(pair.tokens for pair in self.tokens) / len(self.tokens)


def dry_run(arguments: Sequence[str], console: Console) -> None:
    """Prints what `mmdpo train` with these arguments would do, having tried every row of the data as training would.

    Neither weights are read nor files written. Raises what training would raise before it loads the weights:
    RecipeError, RunFolderError, RowError, OSError for a model, processor or dataset that cannot be found.
    """
    recipe = parse_recipe(arguments)
    if find_checkpoint(recipe.training) is None:
        check_run_folder(Path(recipe.training.output_dir), "choose another output_dir, or remove it")
    found = plan_run(recipe)
    if recipe.training.process_index == 0:
        print_plan(found, console)


def plan_run(recipe: Recipe) -> DryRun:
    """Returns what a recipe comes to; its model lies on the `meta` device, without memory."""
    is_stream = recipe.script.dataset_streaming
    if is_stream and recipe.training.max_steps <= 0:
        raise ValueError("a stream has no length: give max_steps, the number of optimizer steps of the run")
    train_dataset, eval_dataset = open_stream(recipe) if is_stream else read_data(recipe)
    args = recipe.options(quantised=False).with_changes(check_data="full")  # tokens cannot be counted otherwise
    plan = resolve(args, is_stream=is_stream)
    args, objective = plan.options, plan.objective
    start = resolve_start(recipe.model.model_name_or_path, plan.load)
    config, processor = start.config, load_processor(start)
    family = find_family(config)
    policy = _build_empty_policy(family, start, recipe)
    check_optimizer(args, policy)
    scorer = assembly.build_scorer(policy, family, objective.cells, args)

    collator = assembly.build_collator(processor, config, args, load_generation_config(start))
    count = _CountTokens(collator, share=scorer.shares_prefix)
    train_rows = train_dataset.head if isinstance(train_dataset, PreferenceStream) else train_dataset
    if not is_stream:
        train_rows = to_preferences(train_rows, "train", args)
    eval_dataset = None if eval_dataset is None else to_preferences(eval_dataset, "eval", args)
    checked = check_rows(train_rows, "train", count, args)
    tokens: tuple[PairTokens, ...] = checked.facts
    held_out = None if eval_dataset is None else check_rows(eval_dataset, "eval", count, args)
    batch = _find_largest_batch(tokens, args.train_batch_size, share=scorer.shares_prefix)
    steps_per_epoch = None if is_stream else count_steps(len(checked.good), args)
    # As `choose_reference` will take it: this model has no weights that could be looked at.
    is_fresh = start.adapter is None and recipe.model.use_peft
    reference = "none" if not plan.live_cells else "adapter off" if is_fresh else "copy"
    memory = estimate_memory(policy, family, args, batch, bits=_read_bits(recipe), reference=reference)
    return DryRun(
        plan=plan,
        model_class=type(unwrap_adapter(policy)).__name__,
        family=type(family).__name__,
        decoder=unwrap_adapter(policy).get_decoder().config.model_type,
        parts=count_parts(policy, family),
        adapter=_describe_adapter(policy, start),
        rows=_describe_rows(scorer, family, args),
        reference=next(line.basis for line in memory if line.name == "reference"),
        pairs=len(checked.good),
        skipped=len(checked.faults),
        eval_pairs=None if held_out is None else len(held_out.good),
        pairs_per_step=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        how_pairs=f"{args.train_batch_size} × {args.gradient_accumulation_steps} accumulated × {args.world_size} "
        + ("process" if args.world_size == 1 else "processes"),
        steps_per_epoch=steps_per_epoch,
        steps=args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * (steps_per_epoch or 0)),
        tokens=tokens,
        batch=batch,
        memory=memory,
    )


def count_parts(policy: Any, family: Family) -> tuple[PartCount, ...]:
    """Returns the parameters by part; what an adapter adds counts as a part of its own."""
    base = unwrap_adapter(policy)
    located, added = family.locate_parts(base), find_added(base)
    counts = {part: [0, 0] for part in (*PARTS, ADAPTER_PART)}
    for name, parameter in base.named_parameters():
        entry = counts[ADAPTER_PART if name in added else located.part_of(name)]
        entry[0] += parameter.numel()
        entry[1] += parameter.numel() * parameter.requires_grad
    return tuple(PartCount(part, total, moved) for part, (total, moved) in counts.items() if total)


@dataclass(frozen=True)
class _CountTokens:
    """Makes a batch of one example, and says what its pair costs."""

    collator: Collator
    share: bool

    def __call__(self, example: PreferenceExample) -> PairTokens:
        """Returns the cost. Raises RowError for an example that cannot be trained on."""
        cells = self.collator.prepare.cells
        batch = self.collator([Item(example, 0, other_images=example.images)])
        # The row's own picture stands for another row's here, with which it has nothing in common in training.
        batch["begins_as"] = [(context, 0) for context in range(len(batch["prompt_ids"]))]
        trees = grow_trees(batch, cells, cells, share=self.share)
        return PairTokens(
            tokens=sum(tree.length for tree in trees),
            longest=max(tree.length for tree in trees),
            answers=sum(branch.length for tree in trees for branch in tree.branches if branch.cells),
            trees=len(trees),
        )


def _build_empty_policy(family: Family, start: Start, recipe: Recipe) -> Any:
    """Returns the policy as training would build it, on the meta device."""
    args, peft_config = recipe.training, get_peft_config(recipe.model)
    model = build_empty_model(start)
    check_model(model)
    assembly.check_quantised(_read_bits(recipe), args, has_adapter=peft_config is not None or start.adapter is not None)
    with torch.device("meta"):
        if start.adapter is not None:
            from peft import get_peft_model

            model = get_peft_model(model, read_settings(start.adapter, is_trained=True))
            freeze_others(model, args.trained_parts)
        return assembly.prepare_policy(model, family, peft_config, args)


def _read_bits(recipe: Recipe) -> int | None:
    return 4 if recipe.model.load_in_4bit else 8 if recipe.model.load_in_8bit else None


def _find_largest_batch(pairs: Sequence[PairTokens], size: int, *, share: bool) -> MicroBatch:
    """Returns the most that a micro-batch of `size` pairs can hold: the longest of them together."""
    answers = sum(sorted((pair.answers for pair in pairs), reverse=True)[:size])
    if share:
        return MicroBatch(sum(sorted((pair.tokens for pair in pairs), reverse=True)[:size]), answers)
    rows = sum(sorted((pair.trees for pair in pairs), reverse=True)[:size])
    return MicroBatch(rows * max(pair.longest for pair in pairs), answers)


def _describe_adapter(policy: Any, start: Start) -> str:
    settings = getattr(policy, "peft_config", {}).get("default")
    if settings is None:
        return "none: the weights themselves are trained"
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind = "DoRA" if getattr(settings, "use_dora", False) else "LoRA"
    kind += ", scaled as rsLoRA," if getattr(settings, "use_rslora", False) else ""
    layers = sum(isinstance(module, BaseTunerLayer) for module in policy.modules())
    told = f"{kind} of rank {getattr(settings, 'r', '?')} on {layers} layers"
    return told if start.adapter is None else f"{told}, trained further from {start.adapter}"


def _describe_rows(scorer: Any, family: Family, args: MDPOConfig) -> str:
    if scorer.shares_prefix:
        limit = "" if args.max_tokens_per_row is None else f", in rows of up to {args.max_tokens_per_row} tokens"
        return f"shared: answers under one image share its prompt, and the pairs of a micro-batch are packed{limit}"
    why = family.why_separate(scorer.model) if args.attention == "auto" else "attention: separate asks for it"
    return f"separate, one for each cell: {why}"


def print_plan(found: DryRun, console: Console) -> None:
    """Prints the plan as four tables: what is trained, how many parameters, on what, and in how much memory."""
    model = (
        ("model", f"{found.model_class}, family {found.family}, decoder {found.decoder}"),
        ("adapter", found.adapter),
        ("rows", found.rows),
        *found.plan.describe(),
        ("reference", found.reference),
    )
    total = PartCount("total", *(sum(getattr(part, n) for part in found.parts) for n in ("parameters", "trained")))
    counts = tuple((part.part, f"{part.parameters:,}", f"{part.trained:,}") for part in (*found.parts, total))
    memory = (
        *((line.name, format_bytes(line.bytes), line.basis) for line in found.memory),
        (
            "total",
            format_bytes(sum(line.bytes for line in found.memory)),
            "not counted: CUDA itself (about 1 GB), fragmentation, and what FSDP or DeepSpeed save by sharding",
        ),
    )
    console.print(Table(("", ""), model, holds_figures=False).terminal(show_header=False))
    console.print(Table(("part", "parameters", "trained"), counts).terminal())
    console.print(Table(("", ""), tuple(_describe_data(found)), holds_figures=False).terminal(show_header=False))
    console.print(Table(("memory of one process", "", "assumed"), memory, holds_figures=False).terminal())
    console.print("This was a dry run: nothing was trained or written, and no weights were read.")


def _describe_data(found: DryRun) -> list[tuple[str, str]]:
    lengths, is_stream = [pair.tokens for pair in found.tokens], found.steps_per_epoch is None
    skipped = f", {found.skipped} faulty ones skipped" if found.skipped else ""
    evaluated = "" if found.eval_pairs is None else f"; {found.eval_pairs:,} for evaluation"
    return [
        ("pairs", f"{'a stream, tried on ' if is_stream else ''}{found.pairs:,}{skipped}{evaluated}"),
        ("pairs per step", f"{found.pairs_per_step} = {found.how_pairs}"),
        ("steps", f"{found.steps:,}" if is_stream else f"{found.steps_per_epoch:,} per epoch, {found.steps:,} in all"),
        (
            "tokens per pair",
            f"{sum(lengths) / len(lengths):,.1f} on average, {max(lengths):,} at most; image tokens included",
        ),
        ("tokens per step", f"{found.tokens_per_step:,.0f} on average"),
        ("largest micro-batch", f"{found.batch.tokens:,} tokens, {found.batch.answer_tokens:,} of them in answers"),
    ]
