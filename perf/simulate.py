"""Simulates training steps of full-size models: `python -m perf.simulate`. No GPU, no weights: shapes alone.

Every case is one model, side, batch size and way of keeping activations. Its operations and the most memory that it
needs are counted by PyTorch's own counters (`FlopCounterMode`, `MemTracker`); its time is a bound, by roofline. The
largest batch that fits is looked for, and simulated. The file is written after every case.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForImageTextToText

from mmdpo import MDPOConfig
from mmdpo.models.families import find_family
from mmdpo.scoring import tree_attention
from mmdpo.scoring.plan import grow_trees
from mmdpo.scoring.reference import Precomputed
from mmdpo.training import assembly
from mmdpo.training.memory import MicroBatch, estimate_memory
from perf import original
from perf.command import make_parser, read_options
from perf.counting import GPUS, Counts, count_step, mixed_precision, run_backward
from perf.fake import FakeDevice, place_batch, place_model
from perf.record import describe_run, write_result
from perf.rows import draw_lengths, make_rows
from perf.shapes import SIMULATED, Shape, shrink
from perf.sides import BETA, DPO, MDPO, MDPO_LIVE, ORIGINAL, TRL, Setting, lora_of, make_trainer, make_trl_trainer

SEED = 0
SIDES = (ORIGINAL, MDPO, MDPO_LIVE, TRL, DPO)
SOUGHT = (ORIGINAL, MDPO, TRL, DPO)
"""Sides whose largest batch is looked for."""
CUDA_BYTES = 1e9
"""What CUDA takes for itself, about."""
DEPTHS = (4, 6)
"""Layers of the shallow models; Qwen3-VL adds features of its tower to the first three."""
MOST = 8
"""Pairs of the largest batch that is simulated; memory grows evenly, and beyond it is extrapolated."""


@dataclass(frozen=True)
class Simulation:
    """A model's step on a device that is not there. In bfloat16 it runs under autocast, as every trainer's does."""

    shape: Shape
    checkpointing: bool
    dtype: torch.dtype = torch.bfloat16

    @property
    def is_mixed(self) -> bool:
        """Whether steps run under autocast."""
        return self.dtype == torch.bfloat16

    def count(self, side: str, pairs: int) -> Counts:
        """Returns what the step of a side comes to on so many pairs.

        Layers of one kind are alike, so that everything grows evenly with their number: a shallow model is simulated,
        others with more layers of one kind, and the lines through them are followed to the depth of the whole one.
        """
        shallow, deeper = self.shape.shorten(DEPTHS)
        base = replace(self, shape=shallow).count_whole(side, pairs)
        others = [(replace(self, shape=shape).count_whole(side, pairs), times) for shape, times in deeper]
        return base.extend(others)

    def count_whole(self, side: str, pairs: int) -> Counts:
        """Returns the same, of the model as it is."""
        device = FakeDevice(waits=True)
        model = self.build_policy()
        place_model(model, device)
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        compute = _LOSSES[side](self.shape, model, side, pairs, device)

        def step() -> None:
            model.train()
            with mixed_precision(enabled=self.is_mixed) as autocast:
                with nullcontext() if autocast is None else autocast.forward():
                    loss = compute()
                run_backward(loss)

        counted = count_step(model, step, device.running())
        del model, compute
        gc.collect()
        return counted

    def build_policy(self) -> Any:
        """Returns the model with its adapter as `MDPOTrainer` would train it, on `meta`."""
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                self.shape.config(), dtype=self.dtype, attn_implementation="sdpa"
            )
            return assembly.prepare_policy(model, find_family(model.config), lora_of(self.shape, model), self.options())

    def options(self) -> MDPOConfig:
        """Returns the options of such a run."""
        return MDPOConfig(
            output_dir="unused",
            bf16=self.is_mixed,
            gradient_checkpointing=self.checkpointing,
            use_cpu=True,
            report_to="none",
        )

    def estimate(self, pairs: int) -> dict[str, int]:
        """Returns the lines of the dry run's estimate for a step of mDPO, in bytes."""
        trainer = _build_trainer(self.shape, pairs, "mdpo")
        cells = trainer.objective.cells
        trees = grow_trees(
            trainer.data_collator([trainer.train_dataset[n] for n in range(pairs)]), cells, cells, share=True
        )
        answers = sum(branch.length for tree in trees for branch in tree.branches)
        policy = self.build_policy()
        lines = estimate_memory(
            policy,
            find_family(policy.config),
            self.options(),
            MicroBatch(sum(tree.length for tree in trees), answers),
            bits=None,
            reference="none",
        )
        return {line.name: line.bytes for line in lines}


# -- the sides --------------------------------------------------------------------------------------------------------


def _build_rows(shape: Shape, pairs: int) -> Any:
    return make_rows(shape, draw_lengths(shape.lengths, pairs, SEED), SEED)


def _build_small_model(shape: Shape) -> Any:
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(shrink(shape).config(), dtype=torch.float32)


def _build_trainer(shape: Shape, pairs: int, objective: str) -> Any:
    """Returns a trainer on so many pairs, with a model in miniature in the place of the one that is simulated."""
    rows, setting = _build_rows(shape, pairs), Setting(attention="auto")
    trainer = make_trainer(shape, rows, setting, _build_small_model(shape), objective, cached=False, probe=False)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _our_loss(shape: Shape, model: Any, side: str, pairs: int, device: FakeDevice) -> Callable[[], Tensor]:
    """Returns the loss of `MDPOTrainer`; rows are shared, which its probe would find exact."""
    objective, _, kind = side.partition("_")
    trainer = _build_trainer(shape, pairs, objective)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(pairs)])
    tree_attention.install(model.get_decoder())
    trainer.model = model
    trainer._scorer = replace(trainer._scorer, model=model, shares_prefix=True)
    live = replace(trainer._live_reference, scorer=trainer._scorer)
    trainer.reference = live
    if kind == "warm":
        cells = trainer.objective.reference_cells
        trainer.reference = Precomputed(cells, live)
        batch["ref_logprobs"] = torch.zeros(pairs, len(cells))
    placed = place_batch(batch, device)
    return lambda: cast(Tensor, trainer.compute_loss(model, placed))


def _original_loss(shape: Shape, model: Any, side: str, pairs: int, device: FakeDevice) -> Callable[[], Tensor]:
    trainer = _build_trainer(shape, pairs, "mdpo")
    made = trainer.data_collator([trainer.train_dataset[row] for row in range(pairs)])
    batch = original.build_batch(made, find_family(model.config))
    rows = [
        original.PaddedRows(_place_floats(part.inputs, device), part.labels) for part in (batch.pairs, batch.corrupted)
    ]
    return lambda: original.compute_loss(model, original.OriginalBatch(*rows), beta=BETA, answer_only_head=False)


def _trl_loss(shape: Shape, model: Any, side: str, pairs: int, device: FakeDevice) -> Callable[[], Tensor]:
    """Returns the loss of TRL's trainer, with the output head that it has on a GPU: of answer positions alone."""
    from trl.trainer import utils

    rows = _build_rows(shape, pairs)
    trainer = make_trl_trainer(shape, rows, Setting(), _build_small_model(shape))
    batch = _place_floats(dict(trainer.data_collator(list(rows))), device)
    trainer.model = model
    utils.add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "mean_logits", "is_top1"))

    def compute() -> Tensor:
        with patch.object(utils, "_use_triton", lambda device: True):
            loss: Tensor = trainer.compute_loss(model, dict(batch))
        return loss

    return compute


def _place_floats(batch: Any, device: FakeDevice) -> Any:
    """Places pixels on the device; integers stay on the host, where code that reads them back finds them."""

    def place(tensor: Tensor) -> Tensor:
        placed: Tensor = place_batch(tensor, device) if tensor.is_floating_point() else tensor
        return placed

    return tree_map_only(Tensor, place, batch)


_LOSSES: dict[str, Callable[..., Callable[[], Tensor]]] = {
    ORIGINAL: _original_loss,
    TRL: _trl_loss,
    MDPO: _our_loss,
    MDPO_LIVE: _our_loss,
    DPO: _our_loss,
}


# -- what is simulated ------------------------------------------------------------------------------------------------


def main() -> None:
    """Simulates case after case."""
    parser = make_parser(__doc__, None, tiny="miniature shapes")
    parser.add_argument("--models", nargs="+", choices=SIMULATED, default=list(SIMULATED))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4], help="pairs of a micro-batch")
    parser.add_argument("--sides", nargs="+", choices=list(_LOSSES), default=[ORIGINAL, MDPO, TRL, DPO])
    parser.add_argument("--no-largest", action="store_true", help="do not look for the largest batches that fit")
    options = read_options(parser)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # what trainers say of a model in miniature
    shapes = {name: shrink(SIMULATED[name]) if options.tiny else SIMULATED[name] for name in options.models}
    run(shapes, options.batches, options.sides, options.output, largest=not options.no_largest, tiny=options.tiny)


def run(
    shapes: dict[str, Shape], batches: Sequence[int], sides: Sequence[str], output: Path, *, largest: bool, tiny: bool
) -> dict[str, Any]:
    """Simulates the shapes and returns the result, which lies in the output folder as far as it has come.

    Cases that a file of the same day and machine holds already are kept, so that what was cut off goes on.
    """
    result = describe_run("cpu") | {"kind": "simulation", "miniature": tiny, "seed": SEED, "depths": DEPTHS}
    result |= {"gpus": [asdict(gpu) for gpu in GPUS], "cuda_bytes": CUDA_BYTES, "most": MOST}
    result |= {"shapes": {name: shape.describe() for name, shape in shapes.items()}, "cases": []}
    earlier = output / f"simulation-{result['machine']}-{result['date']}.json"
    if earlier.exists():
        before = json.loads(earlier.read_text())
        result["shapes"] |= before["shapes"]
        result["cases"] = before["cases"]
    done = {(case["model"], case["checkpointing"], case["side"]) for case in result["cases"]}
    for (name, shape), checkpointing, side in product(shapes.items(), (False, True), sides):
        if (name, checkpointing, side) in done:
            continue
        simulation = Simulation(shape, checkpointing)
        result["cases"].append(_simulate_case(name, simulation, side, batches, largest=largest))
        write_result(result, output, prefix="simulation-")
    return result


def _simulate_case(
    name: str, simulation: Simulation, side: str, batches: Sequence[int], *, largest: bool
) -> dict[str, Any]:
    """Returns what a side's step comes to, batch by batch, and how many pairs fit into each GPU."""
    start = time.perf_counter()
    case: dict[str, Any] = {"model": name, "side": side, "checkpointing": simulation.checkpointing, "batches": {}}
    estimates = {1: simulation.estimate(1)}
    case["optimizer_bytes"] = kept = estimates[1]["optimizer"]
    try:
        found = {pairs: simulation.count(side, pairs) for pairs in batches}
        if largest:
            case["largest"] = {}
            for gpu in GPUS:
                room = gpu.bytes - CUDA_BYTES - kept
                case["largest"][gpu.name] = find_largest(lambda n: simulation.count(side, n), found, room)
    except Exception as error:  # what a model or a side refuses is a finding
        return case | {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"}
    for pairs, counts in sorted(found.items()):
        case["batches"][str(pairs)] = asdict(counts)
        if side == MDPO:
            lines = estimates.get(pairs) or simulation.estimate(pairs)
            case["batches"][str(pairs)]["estimate_bytes"] = sum(lines.values())
    told = {n: f"{c.flops / 1e12:.1f} TFLOP, {c.peak_bytes / 1e9:.1f} GB" for n, c in sorted(found.items())}
    print(f"{name} {side} {'checkpointing ' * simulation.checkpointing}{told} {case.get('largest', '')}", flush=True)
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    return case


def find_largest(count: Callable[[int], Counts], found: dict[int, Counts], room: float) -> int:
    """Returns how many pairs fit into so many bytes; 0 where one does not.

    Memory grows by about as much with every pair. The number that this predicts is simulated, and corrected, as long as
    it is at most `MOST`; `found` keeps what was simulated.
    """
    while True:
        low, high = sorted(found)[0], sorted(found)[-1]
        per_pair = (found[high].peak_bytes - found[low].peak_bytes) / (high - low)
        nearest = min(found, key=lambda n: abs(found[n].peak_bytes - room))
        guess = nearest + int((room - found[nearest].peak_bytes) // per_pair)
        fitting = [n for n, counts in found.items() if counts.peak_bytes <= room]
        most, least = max(fitting, default=0), min((n for n in found if n not in fitting), default=guess + 1)
        guess = min(max(guess, most), max(least - 1, most))
        if guess in found or not 0 < guess <= MOST:
            return max(guess, 0)
        found[guess] = count(guess)


if __name__ == "__main__":
    main()
