"""MDPOTrainer: transformers' Trainer over preference cells, with the constructor of TRL's DPOTrainer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import EvalPrediction, ProcessorMixin, TrainerCallback, set_seed

from mmdpo.checkpoints.card import PROBE
from mmdpo.data.clock import asks_for_date
from mmdpo.data.collate import Batch, Collator, require_batch
from mmdpo.data.faults import Fault, write_faults
from mmdpo.data.items import Items
from mmdpo.data.stream_items import StreamItems
from mmdpo.data.validate import require_images
from mmdpo.folders import hold_folder
from mmdpo.models.load import (
    adapt_processor,
    check_model,
    load_generation_config,
    load_model,
    load_processor,
)
from mmdpo.models.seams import move_inputs
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import describe_rounding, rest_frozen_modules
from mmdpo.objective import CellScore, Scores
from mmdpo.scoring.plan import grow_trees
from mmdpo.scoring.reference import FrozenModel, Precomputed, Reference, StartOfPolicy, choose_reference
from mmdpo.training import assembly
from mmdpo.training.assembly import settle_rows
from mmdpo.training.callbacks import show_lines
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed import check_agreement, check_engine, on_main_process
from mmdpo.training.durable.resume import SKIPPED_ROWS, describe_run
from mmdpo.training.metrics import LossWatch, MetricSums, check_best_metric, describe_batch, list_image_metrics
from mmdpo.training.option_checks import check_optimizer
from mmdpo.training.row_order import RowOrderTrainer
from mmdpo.training.row_pass import RowPass
from mmdpo.training.rows import to_preferences, warn_of_other_samplers
from mmdpo.training.run_plan import count_steps, resolve
from mmdpo.training.sample_answers import SampleAnswers
from mmdpo.training.streams import SkippedRows, is_stream, make_stream_items, read_first_rows

logger = logging.getLogger(__name__)


class MDPOTrainer(RowOrderTrainer):
    """Trains a vision-language model on preference pairs with an objective over (image, response) cells.

    The arguments are those of TRL's `DPOTrainer`. `model` is a name, a model or a `PeftModel`; `train_dataset` and
    `eval_dataset` are datasets in any format of `mmdpo.data.formats` (TRL's vision preference format among them), or
    `PreferenceDataset`s. Without `ref_model` the reference is the policy's start: the adapter switched off, or a
    frozen copy. `compute_metrics` is given the rewards as predictions, one column per reference cell of the objective.

    Every row is tried before training starts; a faulty one raises `RowError`, or is left out and listed in
    `skipped_rows.jsonl` with `on_bad_row="skip"`.
    """

    # The loss of a micro-batch is divided by the number of micro-batches of its step; see `compute_loss`.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | Any,
        ref_model: nn.Module | None = None,
        args: MDPOConfig | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path or type(model).__name__
            args = MDPOConfig(output_dir=f"{Path(str(name)).name}-mDPO")
        if not isinstance(args, MDPOConfig):
            raise TypeError(
                f"args is a {type(args).__name__}: give an MDPOConfig, which takes the options of TRL's DPOConfig"
            )
        if isinstance(peft_config, Mapping):
            raise TypeError("peft_config is a dict: give peft's LoraConfig(**peft_config)")
        if train_dataset is None:
            raise ValueError("train_dataset is required")
        if ref_model is model:
            raise ValueError("model and ref_model are one object; leave ref_model out to use the policy's start")
        # 1. What is asked for, worked out once: nothing is read or loaded yet.
        plan = resolve(args, is_stream=is_stream(train_dataset))
        args, self.plan, self.objective = plan.options, plan, plan.objective
        if ref_model is not None and args.ref_model_name_or_path is not None:
            raise ValueError("ref_model and ref_model_name_or_path are both given; leave one of them out")
        if eval_dataset is None and args.eval_on_start:
            raise ValueError("eval_on_start evaluates before training, and there is no evaluation dataset: give one")
        if compute_metrics is None and eval_dataset is not None:
            several = eval_dataset if isinstance(eval_dataset, Mapping) else ()
            check_best_metric(args.metric_for_best_model, self.objective, several)
        set_seed(args.seed)  # an adapter is initialised at random

        # 2. Where the model comes from, and the processor that makes batches for it.
        start = resolve_start(model, plan.load)
        config = start.config  # first: it says of a text model that it is none
        given = processing_class is not None
        processor = adapt_processor(processing_class, plan.load) if given else load_processor(start)
        self._collator = collator = assembly.build_collator(processor, config, args, load_generation_config(start))

        # 3. The rows: the same on every process. None of their images is opened yet.
        train_dataset = _read_rows("train", train_dataset, args)
        eval_dataset = _map_datasets(eval_dataset, lambda name, data: _read_rows(name, data, args))
        check_agreement(args, {"train": train_dataset, **_by_name(eval_dataset)})
        warn_of_other_samplers(train_dataset, start)
        self._skipped = list[Fault]()
        make = make_stream_items if plan.is_stream else self._make_items
        train_items: Items | StreamItems = make(train_dataset, "train", collator, args)
        eval_items = _map_datasets(eval_dataset, lambda name, data: self._make_items(data, name, collator, args))

        # 4. The model, with its adapter, and which of its parts move.
        policy = load_model(start, parts=plan.trained_parts)
        check_model(policy)
        family = collator.prepare.renderer.family
        policy = assembly.prepare_policy(policy, family, peft_config, args)

        if args.ref_model_name_or_path is not None:
            name, options = args.ref_model_name_or_path, replace(plan.load, adapter=None)
            if name != model:  # which has revisions of its own
                own = {key: value for key, value in options.arguments.items() if key != "revision"}
                options = replace(options, arguments=own)
            ref_model = load_model(resolve_start(name, options))

        # 5. The trainer of transformers, which places the model on its device.
        super().__init__(
            model=policy,
            args=args,
            data_collator=data_collator or collator,
            train_dataset=train_items,
            eval_dataset=eval_items,
            processing_class=processor,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self._check_devices(policy)
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_optimizer(args, policy)
        self._metrics = {"train": MetricSums(), "eval": MetricSums()}
        self._losses = LossWatch()
        self._evaluated: Any = None
        """The rows of the last evaluation."""
        self._image_metrics = list_image_metrics(self.objective)
        show_lines(self)
        if args.sample_answers_steps:
            self.add_callback(SampleAnswers(self, collator))
        self.model_accepts_loss_kwargs = False
        if hasattr(self.model, "add_model_tags"):
            self.model.add_model_tags(["mmdpo", "dpo"])

        # 6. How rows are scored, and with which reference; then every row is tried, and scored before training.
        tried = train_items if isinstance(train_items, Items) else train_items.head()
        self._scorer, self.probe = settle_rows(policy, family, collator, tried, args, self.accelerator)
        self._live_reference = choose_reference(
            self._scorer, ref_model, is_live=bool(plan.live_cells), drops_out=not args.disable_dropout
        )
        self.reference: Reference = self._live_reference
        if plan.cached_cells:
            self.reference = Precomputed(plan.cached_cells, self._live_reference)
        check_engine(
            self.accelerator, self._live_reference, is_cached=bool(plan.cached_cells), is_live=bool(plan.live_cells)
        )
        self.ref_model = None
        """The reference model, None where it is the policy without its adapter or at its start, as TRL has it."""
        if isinstance(self._live_reference, FrozenModel):
            self.ref_model = self._live_reference.scorer.model
            self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)
        self._agree_on_date()
        try:
            self._check_batches()  # before references are scored
            self._try_rows({"train": self.train_dataset, **_by_name(self.eval_dataset)})
        except Exception:
            with suppress(OSError):  # it holds something
                Path(args.output_dir).rmdir()  # Trainer has made it
            raise

    def _check_devices(self, policy: nn.Module) -> None:
        """Raises ValueError for several GPUs in one process, and warns of weights that updates are too small for."""
        if self.args.n_gpu > 1:
            raise ValueError(
                f"{self.args.n_gpu} GPUs are visible to one process, and nn.DataParallel cannot score cells: start one "
                "process per GPU with `accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES"
            )
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # these keep a copy in float32
        if not is_sharded and (rounding := describe_rounding(policy, self.args.learning_rate)) is not None:
            logger.warning("%s", rounding)

    # -- the step -----------------------------------------------------------------------------------------------------

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """Returns what policy and reference say of every cell of a batch that lies on the model's device."""
        if self._scorer.model.training:  # Trainer puts the whole model into training mode, at every step
            rest_frozen_modules(self._scorer.model, self._scorer.family)
        cells, reference_cells = self.objective.cells, self.objective.reference_cells
        memo: dict[str, Any] = {}
        reference = (
            self.reference(batch, reference_cells, policy=model, memo=memo)
            if reference_cells
            else torch.empty(0, len(batch["index"]))
        )
        policy = self._scorer(batch, cells, through=model, memo=memo)
        by_cell = dict(zip(reference_cells, reference, strict=True))
        return {
            cell: CellScore(policy.logprobs[c], policy.tokens[c], by_cell.get(cell)) for c, cell in enumerate(cells)
        }

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Returns the mean of the objective over pairs, and with `return_outputs` the scores too.

        `num_items_in_batch` is the number of pairs of the whole optimizer step, on all processes: the loss is then
        scaled so that the step's gradient is the mean over those pairs however they were split.
        """
        scores = self.score(model, inputs)
        has_images = inputs["has_images"] if self.args.image_terms == "where_possible" else None
        losses = self.objective.losses(
            scores,
            beta=self.args.beta,
            weights=inputs["weights"],
            delta=self._find_threshold(scores, inputs),
            has_images=has_images,
        )
        self._losses.add(losses.total, inputs["index"], self.state.global_step + 1)
        if losses.total.device.type == "cpu":  # it lies here; a GPU would be waited for
            self._check_losses()
        counts = inputs["counts"]
        self._add_metrics(describe_batch(self.objective, scores, losses, self.args.beta), counts, has_images)
        if num_items_in_batch is None:
            loss = (losses.total * counts).sum() / counts.sum().clamp(min=1)
        else:
            # Trainer divides by the micro-batches of the step, the data-parallel engine by the processes.
            parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            loss = (losses.total * counts).sum() * parts / num_items_in_batch
        return (loss, scores) if return_outputs else loss

    def _find_threshold(self, scores: Scores, batch: Batch) -> Float[Tensor, ""] | float:
        """Returns the running mean that a term's δ is, with the batch in it where it is trained on."""
        term = self.objective.tracking_term
        if term is None:
            return 0.0
        if not self.model.training:
            return self._reward_mean.value.to(batch["index"].device)
        rewards = self.objective.mean_reward(scores, beta=self.args.beta, weights=batch["weights"])
        passes_over = self.args.image_terms == "where_possible" and term.needs_image
        counts = batch["counts"] & batch["has_images"] if passes_over else batch["counts"]
        return self._reward_mean.update(rewards, counts, self.accelerator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """Returns the micro-batches of an optimizer step and the number of their pairs on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        for batch in batches:
            require_batch(batch)
        count = torch.stack([batch["counts"].sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.reduce(count, reduction="sum")

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the loss, the rewards [B, C] as predictions, and the example's places as labels."""
        require_batch(inputs)
        batch = move_inputs(self, inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, batch, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        rewards = [self.args.beta * scores[cell].logratio.detach() for cell in self.objective.reference_cells]
        stacked = torch.stack(rewards, dim=1) if rewards else torch.empty(len(batch["index"]), 0)
        return loss.detach(), stacked, batch["index"]

    def _check_losses(self) -> None:
        """Raises FloatingPointError, naming step and rows, where a loss was not finite since the run began."""
        if (found := self._losses.find()) is None:
            return
        step, rows = found
        items = self.train_dataset if self.model.training else self._evaluated
        sources = [f"row {row + 1}" for row in rows]
        if isinstance(items, StreamItems):
            sources = [items.source_of(row) for row in rows]
        elif isinstance(items, Items):
            sources = [items.examples[row].source for row in rows]
        raise FloatingPointError(
            f"the loss is not finite at step {step} for {', '.join(sources)}. Lower the learning rate, use bf16 or "
            "float32 instead of fp16, or look at these rows"
        )

    def _check_weights(self) -> None:
        self._check_losses()  # they say which rows, where weights are spoilt
        super()._check_weights()

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _add_metrics(
        self, metrics: Mapping[str, Float[Tensor, "B"]], counts: Bool[Tensor, "B"], has_images: Bool[Tensor, "B"] | None
    ) -> None:
        sums = self._metrics["train" if self.model.training else "eval"]
        of_images = self._image_metrics if has_images is not None else frozenset()
        sums.add({name: values for name, values in metrics.items() if name not in of_images}, counts)
        if has_images is not None:
            sums.add({name: values for name, values in metrics.items() if name in of_images}, counts & has_images)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the steps since the last log. Raises FloatingPointError for gradients that are infinite."""
        self._check_losses()
        norm = float(logs.get("grad_norm", 0.0))
        if not math.isfinite(norm) and not self.args.fp16:  # whose scaler leaves such a step out, and goes on
            raise FloatingPointError(
                f"the norm of the gradients is {norm} at step {self.state.global_step}, and clipping cannot "
                "mend that: lower beta or the weights of terms, or use bf16 or float32"
            )
        if "loss" in logs:
            logs = {**logs, **self._metrics["train"].flush(self.accelerator)}
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluates, with the metrics of training under the evaluation's prefix."""
        self._check_losses()  # of training, so far
        self._metrics["eval"].flush(self.accelerator)
        self._evaluated = dataloader.dataset
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        self._check_losses()
        prefix = kwargs.get("metric_key_prefix", "eval")
        means = self._metrics["eval"].flush(self.accelerator)
        output.metrics.update({f"{prefix}_{name}": value for name, value in means.items()})
        return output

    def floating_point_ops(self, inputs: Batch) -> float:
        """Returns the estimate of transformers for the rows of a batch: 6 · tokens · parameters."""
        cells = self.objective.cells
        trees = grow_trees(inputs, cells, cells, share=self._scorer.shares_prefix)
        tokens = sum(tree.length for tree in trees)
        return float(super().floating_point_ops({"input_ids": torch.empty(tokens, device="meta")}))

    # -- data and reference -------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does, after the reference pass over what no run has scored yet.

        SIGTERM ends it with `mmdpo.training.stopping.TrainingStopped` after the current step, checkpoint saved.
        """
        self._check_batches()  # faulty rows were left out since
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with hold_folder(folder) if self.is_world_process_zero() else nullcontext():
            clock = self._collator.prepare.renderer.clock
            before = clock.moment
            checkpoint = self.open_run_folder(resume_from_checkpoint)
            self._agree_on_date()
            if clock.moment != before:  # that of the run's start: on every process, prompts that write it change
                for items in (self.train_dataset, *_by_name(self.eval_dataset).values()):
                    if isinstance(items, Items):
                        items.ref_logprobs = None
            self._try_rows({"train": self.train_dataset, **_by_name(self.eval_dataset)})
            if isinstance(self._live_reference, StartOfPolicy):
                self._live_reference.leave()
            if isinstance(self.train_dataset, StreamItems):
                if self.is_world_process_zero():
                    SkippedRows(folder / SKIPPED_ROWS).add(self._skipped)
            elif self._skipped and self.is_world_process_zero():
                write_faults(folder / SKIPPED_ROWS, self._skipped)
            result = super().train(checkpoint, *args, **kwargs)
            if self.is_world_process_zero():
                (folder / PROBE).write_text(json.dumps(self.probe.to_dict(), indent=2) + "\n")
            return result

    def _check_batches(self) -> None:
        """Raises ValueError where no batch would be made of the data."""
        if isinstance(self.train_dataset, Items):
            count_steps(len(self.train_dataset), self.args)

    def remember(self) -> dict[str, Any]:
        """Returns the moment that dated prompts are written at, where the chat template writes a date."""
        clock = self._collator.prepare.renderer.clock
        return {"date": clock.moment.isoformat()} if asks_for_date(self.processing_class) else {}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Sets the date back to that of the run's start."""
        if (date := remembered.get("date")) is not None:
            self._collator.prepare.renderer.clock.moment = datetime.fromisoformat(date)

    def _agree_on_date(self) -> None:
        """Lets all processes write the date of the main one into prompts."""
        clock = self._collator.prepare.renderer.clock
        clock.moment = on_main_process(lambda: clock.moment, is_main=self.is_world_process_zero())

    def describe_run(self) -> dict[str, Any]:
        """Returns what decides the losses; a checkpoint of a run that differs is not resumed from."""
        engine = "FSDP" if self.is_fsdp_enabled else "DeepSpeed" if self.is_deepspeed_enabled else "none"
        return describe_run(
            self.args,
            self._scorer.model,
            self._live_reference,
            self.train_dataset,
            self.processing_class,
            objective=self.objective,
            engine=engine,
        )

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates a dataset in any format that training takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._open(eval_dataset)
        metrics: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluates a dataset in any format that training takes, and returns its rewards as predictions."""
        return super().predict(self._open({"test": test_dataset})["test"], *args, **kwargs)

    def _open(self, dataset: Any) -> Any:
        """Returns the rows of one dataset, or of several under names, as items, tried and scored."""
        dataset = _map_datasets(dataset, lambda name, data: _read_rows(name, data, self.args))
        check_agreement(self.args, _by_name(dataset))
        dataset = _map_datasets(dataset, lambda name, data: self._make_items(data, name, self._collator, self.args))
        self._try_rows(_by_name(dataset))
        return dataset

    def _make_items(self, dataset: Any, name: str, collator: Collator, args: MDPOConfig) -> Items:
        """Returns rows as items, none of which was looked at yet."""
        if isinstance(dataset, Items):
            return dataset
        if isinstance(dataset, datasets.IterableDataset):
            dataset = read_first_rows(dataset, name, args)
        examples = to_preferences(dataset, name, args)
        require_images(examples)
        draw_others = any(found.needs_other_image for found in collator.prepare.corruptions.values())
        return Items(examples, seed=args.seed, draw_others=draw_others, per_epoch=args.corruption_per_epoch)

    def _try_rows(self, datasets: Mapping[str, Any]) -> None:
        """Tries and scores the rows of datasets, each dataset once; streams are tried while they are read.

        Where the reference is the policy itself and has moved, it is too late to score; `StartOfPolicy` will say so.
        """
        live, cells = self._live_reference, self.plan.cached_cells
        if isinstance(live, StartOfPolicy) and live.has_moved():
            cells = ()
        waiting = {
            name: items
            for name, items in datasets.items()
            if isinstance(items, Items) and (not items.is_tried or (cells and items.ref_logprobs is None))
        }
        if waiting:
            policy = self._scorer.model
            tries = RowPass(self._collator, self.data_collator, live, cells, policy, self.accelerator, self.args)
            for name, items in waiting.items():
                self._skipped += tries.run(items, name)
                self._count_without_images(items, name)

    def _count_without_images(self, items: Items, name: str) -> None:
        """Says how many rows the terms with corrupted images pass over."""
        terms = ", ".join(term.label for term in self.objective.terms if term.needs_image)
        if self.args.image_terms == "where_possible" and terms:
            without = sum(not items.examples[place].images for place in range(len(items)))
            self._check_measured(name, is_measured=without < len(items))
            logger.warning("%s: %d of %d rows have no image, and %s pass them over", name, without, len(items), terms)

    def _check_measured(self, name: str, *, is_measured: bool) -> None:
        """Raises ValueError where the best model is chosen by a mean over rows with images, and there is none."""
        wanted = str(self.args.metric_for_best_model).removeprefix("eval_").removeprefix(f"{name}_")
        if name != "train" and wanted in self._image_metrics and not is_measured:
            raise ValueError(
                f"metric_for_best_model: {wanted} is a mean over rows with images, and no row of {name} has one: "
                "choose another metric, such as loss, or evaluate rows with images"
            )


def _read_rows(name: str, dataset: Any, args: MDPOConfig) -> Any:
    """Returns rows in any format as a PreferenceDataset; streams, and what was read before, as they are."""
    return dataset if is_stream(dataset) or isinstance(dataset, Items) else to_preferences(dataset, name, args)


def _map_datasets(dataset: Any, function: Callable[[str, Any], Any]) -> Any:
    """Applies a function to one dataset or to each of several under names."""
    if dataset is None:
        return None
    if isinstance(dataset, Mapping):
        return {name: function(name, data) for name, data in dataset.items()}
    return function("eval", dataset)


def _by_name(dataset: Any) -> dict[str, Any]:
    return dict(dataset) if isinstance(dataset, Mapping) else {"eval": dataset}
