"""Who competes: the original algorithm, TRL's DPOTrainer and this library, each as one function of a training step.

A step is forward and backward of one micro-batch that was made before; no side collates, and none steps an optimizer.
All sides have the same weights, the same adapter (moved away from its start, so that no reward is zero) and the same
pairs; `check_agreement` refuses to go on unless their losses and gradients agree.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForImageTextToText

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.models.families import find_family
from perf import original
from perf.rows import build_processor
from perf.shapes import Shape

BETA = 0.1
ORIGINAL, ANSWER_HEAD = "original", "original_answer_only_head"
TRL, TRL_CACHED = "trl_dpo", "trl_dpo_references_given"
MDPO, MDPO_LIVE, MDPO_PASS = "mdpo_warm", "mdpo_live", "mdpo_reference_pass"
DPO, DPO_LIVE, DPO_PASS = "dpo_warm", "dpo_live", "dpo_reference_pass"

SAME_LOSS = ((ORIGINAL, ANSWER_HEAD, MDPO, MDPO_LIVE), (TRL, TRL_CACHED, DPO, DPO_LIVE))
"""Sides that compute one and the same loss."""
ALL = (ORIGINAL, ANSWER_HEAD, TRL, TRL_CACHED, MDPO, MDPO_LIVE, MDPO_PASS, DPO, DPO_LIVE, DPO_PASS)


@dataclass(frozen=True)
class Side:
    """One competitor, or the reference pass that precedes a run of ours."""

    name: str
    model: Any
    step: Callable[[], Tensor]
    """Forward and backward; returns the loss."""


@dataclass(frozen=True)
class Setting:
    """Where and how the sides run."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    checkpointing: bool = False
    kernel: str = "sdpa"
    """The attention implementation of transformers."""
    attention: str | None = None
    """`attention` of `MDPOConfig`; None leaves its default."""

    @property
    def mixed(self) -> bool:
        """Whether steps run under autocast, as every trainer of transformers runs 16-bit training."""
        return self.dtype == torch.bfloat16


def build_sides(shape: Shape, dataset: Any, setting: Setting, wanted: Sequence[str]) -> dict[str, Side]:
    """Returns the wanted sides for one batch that holds the whole dataset, in the order asked for."""
    sides: dict[str, Side] = {}
    if {TRL, TRL_CACHED} & set(wanted):
        sides |= _build_trl(shape, dataset, setting)
    if set(wanted) - {TRL, TRL_CACHED}:
        sides |= _build_ours_and_original(shape, dataset, setting, wanted)
    return {name: sides[name] for name in wanted}


def build_model(shape: Shape, setting: Setting) -> Any:
    """Returns the model with random weights, made where it will run."""
    torch.manual_seed(0)
    with torch.device(setting.device):
        config = shape.config()
        return AutoModelForImageTextToText.from_config(config, dtype=setting.dtype, attn_implementation=setting.kernel)


def lora_of(shape: Shape, model: Any) -> LoraConfig:
    """Returns the adapter of all sides."""
    targets = find_family(model.config).lora_targets(model)
    return LoraConfig(r=shape.lora_rank, lora_alpha=2 * shape.lora_rank, lora_dropout=0.0, target_modules=targets)


def move_adapter(model: Any) -> None:
    """Gives every adapter the same weights, away from the start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                std = 0.02 if "lora_B" in name else (3 * parameter.shape[1]) ** -0.5
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def _prepare(trainer: Any, setting: Setting) -> None:
    """Does to the model what `train` would do before the first step, and moves its adapter."""
    model = trainer.model
    move_adapter(model)
    if setting.mixed:
        trainer.accelerator.prepare_model(model)  # its forward runs under autocast from here on
    if setting.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


_FOLDER = tempfile.TemporaryDirectory(prefix="mmdpo-perf-")
"""Of trainers, which write nothing; removed when Python ends."""


def options_of(setting: Setting, pairs: int) -> dict[str, Any]:
    """Returns the options that all trainers have."""
    return {
        "output_dir": _FOLDER.name,
        "per_device_train_batch_size": pairs,
        "gradient_checkpointing": setting.checkpointing,
        "bf16": setting.mixed,
        "use_cpu": setting.device == "cpu",
        "max_length": None,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "beta": BETA,
    }


# -- ours and the original --------------------------------------------------------------------------------------------


def _build_ours_and_original(shape: Shape, dataset: Any, setting: Setting, wanted: Sequence[str]) -> dict[str, Side]:
    trainers = {MDPO: make_trainer(shape, dataset, setting, build_model(shape, setting), "mdpo", cached=True)}
    model = trainers[MDPO].model
    for name in (MDPO_LIVE, DPO, DPO_LIVE):
        if name == MDPO_LIVE or {DPO, DPO_LIVE, DPO_PASS} & set(wanted):
            objective, _, kind = name.partition("_")
            trainers[name] = make_trainer(shape, dataset, setting, model, objective, cached=kind == "warm")
    _prepare(trainers[MDPO], setting)

    steps: dict[str, Callable[[], Tensor]] = {}
    for warm, live, scoring in ((MDPO, MDPO_LIVE, MDPO_PASS), (DPO, DPO_LIVE, DPO_PASS)):
        if warm not in trainers:
            continue
        trainer = trainers[warm]
        items = [trainer.train_dataset[row] for row in range(len(dataset))]
        batch = trainer._prepare_inputs(trainer.data_collator(items))
        steps[scoring] = _reference_pass(trainer, batch)
        steps[warm] = _trainer_step(trainer, {**batch, "ref_logprobs": steps[scoring]().T.contiguous()})
        steps[live] = _trainer_step(trainers[live], batch)
        if warm == MDPO:
            padded = original.build_batch(batch, find_family(model.config))
            steps[ORIGINAL] = _original_step(model, padded, setting, answer_only_head=False)
            steps[ANSWER_HEAD] = _original_step(model, padded, setting, answer_only_head=True)
    return {name: Side(name, model, step) for name, step in steps.items()}


def make_trainer(
    shape: Shape, dataset: Any, setting: Setting, model: Any, objective: str, *, cached: bool, **others: Any
) -> MDPOTrainer:
    """Builds a trainer, with a fresh adapter if the model has none. All must be built before the adapter moves."""
    options: dict[str, Any] = {} if setting.attention is None else {"attention": setting.attention}
    options |= {"objective": objective, "precompute_ref_log_probs": cached, "check_data": "text", **others}
    return MDPOTrainer(
        model,
        args=MDPOConfig(**options_of(setting, len(dataset)), **options),
        train_dataset=dataset,
        processing_class=build_processor(shape),
        peft_config=None if hasattr(model, "peft_config") else lora_of(shape, model),
    )


def _trainer_step(trainer: Any, batch: Any) -> Callable[[], Tensor]:
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it; steps are called without `train` here

    def step() -> Tensor:
        loss: Tensor = trainer.training_step(trainer.model, dict(batch))
        return loss

    return step


def _reference_pass(trainer: Any, batch: Any) -> Callable[[], Tensor]:
    def score() -> Tensor:
        with trainer.accelerator.autocast():
            scored: Tensor = trainer._live_reference(
                batch, trainer.objective.reference_cells, policy=trainer.model, memo={}
            )
        return scored

    return score


def _original_step(
    model: Any, batch: original.OriginalBatch, setting: Setting, *, answer_only_head: bool
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.train()
        with leave_sums_to_peft(model):
            with torch.autocast(setting.device, torch.bfloat16, enabled=setting.mixed):
                loss = original.compute_loss(model, batch, beta=BETA, answer_only_head=answer_only_head)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return step


@contextmanager
def leave_sums_to_peft(model: Any) -> Iterator[None]:
    """Within it, the model's LoRA is computed as PEFT computes it, which is how the original has it."""
    from peft.tuners import lora

    from mmdpo.models.adapters import SummingLinear  # earlier versions of mmdpo, which are measured beside, lack it

    layers = [module for module in model.modules() if type(module) is SummingLinear]
    for layer in layers:
        layer.__class__ = lora.Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = SummingLinear


# -- TRL --------------------------------------------------------------------------------------------------------------


def _build_trl(shape: Shape, dataset: Any, setting: Setting) -> dict[str, Side]:
    """TRL's own trainer, without gradient checkpointing unless all sides have it.

    It refuses `precompute_ref_log_probs` where rows have images. What the option would save is measured all the same,
    by giving its loss the values in the batch, where it looks for them in rows without images.
    """
    trainer = make_trl_trainer(shape, dataset, setting, build_model(shape, setting))
    _prepare(trainer, setting)
    batch = trainer._prepare_inputs(trainer.data_collator(list(dataset)))
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    given = {**batch, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    step, step_given = _trainer_step(trainer, batch), _trainer_step(trainer, given)

    def live() -> Tensor:
        trainer.precompute_ref_logps = False
        return step()

    def cached() -> Tensor:
        trainer.precompute_ref_logps = True
        return step_given()

    return {TRL: Side(TRL, trainer.model, live), TRL_CACHED: Side(TRL_CACHED, trainer.model, cached)}


def make_trl_trainer(shape: Shape, dataset: Any, setting: Setting, model: Any) -> Any:
    """Returns TRL's trainer, with a fresh adapter on the model."""
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DPOTrainer(
            model,
            args=DPOConfig(**options_of(setting, len(dataset))),
            train_dataset=dataset,
            processing_class=build_processor(shape),
            peft_config=lora_of(shape, model),
        )


# -- agreement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far a side is from the first one that computes the same loss."""

    loss: float
    loss_difference: float
    """Relative."""
    gradient_difference: float
    """Norm of the difference over the norm, all adapter weights together."""


class DisagreementError(RuntimeError):
    """Two sides that should compute the same thing do not: their times must not be compared."""


def compare_sides(sides: dict[str, Side], step: Callable[[Side], float] | None = None) -> dict[str, Agreement]:
    """Returns losses and differences of the sides that train, one step of each.

    `step` runs a side's step, leaves its gradients and returns its loss; a profiled one may be given.
    """
    step = step or (lambda side: float(side.step()))
    return compare(sides, SAME_LOSS, step)


def compare(
    sides: dict[str, Side], groups: Sequence[Sequence[str]], step: Callable[[Side], float]
) -> dict[str, Agreement]:
    """Returns losses and differences of the sides of each group, which compute one and the same loss."""
    found: dict[str, Agreement] = {}
    for group in groups:
        first: tuple[float, dict[str, Tensor]] | None = None
        for side in (sides[name] for name in group if name in sides):
            clear_gradients(side)
            loss = step(side)
            gradients = {n: p.grad.float().cpu() for n, p in side.model.named_parameters() if p.grad is not None}
            clear_gradients(side)
            first = first or (loss, gradients)
            found[side.name] = Agreement(loss, abs(loss / first[0] - 1), _difference(gradients, first[1], side.name))
    return found


def check_agreement(agreements: dict[str, Agreement], tolerance: float = 1e-4) -> None:
    """Raises DisagreementError where a loss or the gradients are further off than the relative tolerance."""
    for name, it in agreements.items():
        if not max(it.loss_difference, it.gradient_difference) <= tolerance:
            raise DisagreementError(
                f"{name}: loss {it.loss:.8g} is off by {it.loss_difference:.1e}, gradients by "
                f"{it.gradient_difference:.1e} (relative; {tolerance:.0e} is allowed). Nothing was timed"
            )


def clear_gradients(side: Side) -> None:
    """Lets go of the gradients, so that every step allocates its own."""
    side.model.zero_grad(set_to_none=True)


def _difference(these: dict[str, Tensor], those: dict[str, Tensor], name: str) -> float:
    if these.keys() != those.keys():
        others = sorted(these.keys() ^ those.keys())
        raise DisagreementError(f"{name}: other parameters have gradients: {', '.join(others[:3])} …")
    squares = sum(float((these[key] - those[key]).square().sum()) for key in those)
    norm = sum(float(gradient.square().sum()) for gradient in those.values())
    return float((squares / norm) ** 0.5)
