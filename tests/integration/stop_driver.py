"""Two processes, of which the second alone is asked to stop, and what they make of it; started by a launcher.

Arguments: a folder and an engine (`ddp`, `fsdp2`). Every process leaves `told-<rank>.json`.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.models.weights import CheckpointError
from mmdpo.training.stopping import TrainingStopped
from mmdpo.world.pairs import make_pairs

sys.path.insert(0, str(Path(__file__).parents[1] / "equivalence"))

from world_runs import choose_engine


class AskToStop(TrainerCallback):
    """Sends SIGTERM to this process in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def build(folder, engine, *callbacks, **changes):
    rows = make_pairs(20, seed=5)
    choose_engine(engine)
    if engine == "fsdp2":
        wrapped = dict(auto_wrap_policy="TRANSFORMER_BASED_WRAP", transformer_layer_cls_to_wrap=["LlamaDecoderLayer"])
        changes |= dict(fsdp=True, fsdp_config=dict(version=2, **wrapped))
    options = dict(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=1e-3,
        gradient_checkpointing=False,
        logging_steps=2,
        save_steps=2,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        precompute_ref_log_probs=False,
    )
    args = MDPOConfig(**{**options, **changes})
    choose_engine(engine)
    return MDPOTrainer("world", args=args, train_dataset=rows, callbacks=list(callbacks))


def losses(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def main(folder, engine):
    told = {}
    whole = build(folder / "whole", engine)
    whole.train()
    told["whole"] = losses(whole)
    stopped = build(folder / "run", engine, AskToStop(3))
    try:
        stopped.train()
    except TrainingStopped as error:
        told["stopped"] = error.step
    told["handler"] = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = build(folder / "run", engine)
    resumed.train(resume_from_checkpoint=True)
    told["resumed"] = losses(resumed)
    strange = build(folder / "run", engine, beta=0.2)
    try:
        strange.train(resume_from_checkpoint=True)
    except CheckpointError as error:
        told["strange"] = str(error)
    (folder / f"told-{resumed.args.process_index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
