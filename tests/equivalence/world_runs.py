"""Trains the embedded world in several configurations, in one process or as one of several; started by a launcher.

Arguments: a folder, the engine (`one`, `ddp`, `fsdp2`, `zero2`, `zero3`) and names of configurations. Writes
`<name>.json`: the history of the run, and which rows each process has scored with the reference before training.
`disagree` writes what every process is told where the second was given something else, and `check` which rows each
process has tried before training, and what each is told of faulty ones.
"""

import gc
import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from peft import LoraConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.prepare import Preparer
from mmdpo.records import RowError
from mmdpo.scoring.reference import StartOfPolicy
from mmdpo.training.distributed import DisagreementError
from mmdpo.world.pairs import make_pairs

GLOBAL_BATCH = 4
UNEVEN = 9
"""Training rows: with two processes the second has no row in the last batch of all."""

CONFIGURATIONS = {
    "live": dict(precompute_ref_log_probs=False),
    "cached": dict(precompute_ref_log_probs=True, precompute_ref_batch_size=1),
    "packed": dict(
        adapter=True,
        precompute_ref_log_probs=False,
        attention="shared",
        max_tokens_per_row=160,
        gradient_checkpointing=True,
    ),
    "grouped": dict(precompute_ref_log_probs=True, train_sampling_strategy="group_by_length", num_train_epochs=2),
    "rebalanced": dict(precompute_ref_log_probs=True, train_sampling_strategy="batch_rebalance"),
    "threshold": dict(objective="mpo", precompute_ref_log_probs=True),
    "tower": dict(freeze_vision_tower=False, gradient_checkpointing=True, precompute_ref_log_probs=True),
}
SHARDING = {
    "fsdp2": DistributedType.MULTI_GPU,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}
ACCUMULATED = ("grouped", "rebalanced")
"""Run in micro-batches of one row, so that the last step has fewer of them, or repeats rows in them."""


def main():
    folder, engine, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if engine.startswith("zero"):  # else it compiles for a minute what sums in shared memory, where Gloo does as well
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    scored = record_reference_pass()
    pairs = make_pairs(UNEVEN, seed=5), make_pairs(5, seed=6)  # before DeepSpeed partitions every model that is loaded
    for name in names:
        if name == "disagree":
            disagree(folder)
            continue
        if name == "check":
            check(folder)
            continue
        scored.clear()
        trainer = train(folder / name, engine, *pairs, **CONFIGURATIONS[name], accumulate=name in ACCUMULATED)
        shares = gather_object([scored["rows"]])
        if trainer.is_world_process_zero():
            content = {"history": trainer.state.log_history, "shares": shares}
            (folder / f"{name}.json").write_text(json.dumps(content))
    PartialState().destroy_process_group()  # as `mmdpo train` does


def train(folder, engine, rows, eval_rows, *, accumulate, adapter=False, **options):
    choose_engine(engine)
    micro_batch = GLOBAL_BATCH // (1 if engine == "one" else 2)
    if accumulate:
        options |= dict(gradient_accumulation_steps=micro_batch)
        micro_batch = 1
    if engine == "fsdp2":
        wrapped = dict(auto_wrap_policy="TRANSFORMER_BASED_WRAP", transformer_layer_cls_to_wrap=["LlamaDecoderLayer"])
        options |= dict(fsdp=True, fsdp_config=dict(version=2, **wrapped))
    if engine.startswith("zero"):
        options |= dict(deepspeed=deepspeed_options(int(engine[-1])))
    args = MDPOConfig(
        **{
            **dict(
                output_dir=str(folder),
                per_device_train_batch_size=micro_batch,
                per_device_eval_batch_size=2,
                num_train_epochs=1,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                warmup_steps=0,
                gradient_checkpointing=False,
                freeze_projector=False,
                logging_steps=1,
                save_strategy="no",
                eval_strategy="epoch",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=1,
                ref_cache_dir=str(folder / "cache"),
            ),
            **options,
        }
    )
    choose_engine(engine)
    if engine == "zero3" and args.precompute_ref_log_probs:
        unset_hf_deepspeed_config()  # what `zero3_init_flag: false` does: weights are partitioned behind the pass
    trainer = MDPOTrainer(
        "world",
        args=args,
        train_dataset=rows,
        eval_dataset=eval_rows,
        peft_config=LoraConfig(r=2, lora_alpha=16) if adapter else None,
        compute_metrics=lambda prediction: {"rewards": float(prediction.predictions.mean())},
    )
    # DeepSpeed loads weights by another way, which draws other random numbers in between.
    generator = torch.Generator().manual_seed(7)
    for name, parameter in trainer.model.named_parameters():
        if "lora_A" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    trainer.train()
    assert trainer.is_fsdp_enabled == (engine == "fsdp2")
    is_sharded = any(type(parameter).__name__ == "DTensor" for parameter in trainer.model_wrapped.parameters())
    assert is_sharded == (engine == "fsdp2")
    assert trainer.is_deepspeed_enabled == engine.startswith("zero")
    trainer.save_model(str(folder / "saved"))
    return trainer


def deepspeed_options(stage):
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # PyTorch's AdamW: DeepSpeed's own for CPUs would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        # By default parameters as small as those of the world would not be partitioned.
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def disagree(folder):
    rank = PartialState().process_index
    rows, other_order = make_pairs(4, seed=5), make_pairs(4, seed=5)[::-1]
    cases = {
        "order": dict(train_dataset=other_order if rank else rows),
        "length": dict(train_dataset=rows[: 4 - rank]),
        "evaluation": dict(train_dataset=rows, eval_dataset=None if rank else rows),
        "options": dict(train_dataset=rows, beta=0.1 + rank),
    }
    told = {}
    for name, given in cases.items():
        args = MDPOConfig(
            output_dir=str(folder / str(rank)),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            beta=given.pop("beta", 0.1),
        )
        try:
            MDPOTrainer("world", args=args, **given)
        except DisagreementError as error:
            told[name] = str(error)
    (folder / f"disagree-{rank}.json").write_text(json.dumps(told))


def check(folder):
    rank = PartialState().process_index
    tried, open_row = [], Preparer.open

    def noting(self, item, *rest):
        tried.append(item.example.id)
        return open_row(self, item, *rest)

    Preparer.open = noting
    rows = make_pairs(7, seed=5)
    args = dict(use_cpu=True, report_to="none", disable_tqdm=True, probe=False)  # which opens two rows of its own
    trainer = MDPOTrainer("world", args=MDPOConfig(output_dir=str(folder / str(rank)), **args), train_dataset=rows)
    Preparer.open = open_row
    faulty = [{**row, "chosen": ""} if k in (2, 5) else row for k, row in enumerate(rows)]
    told, skipping = "", MDPOConfig(output_dir=str(folder / str(rank)), on_bad_row="skip", **args)
    try:
        MDPOTrainer("world", args=MDPOConfig(output_dir=str(folder / str(rank)), **args), train_dataset=faulty)
    except RowError as error:
        told = str(error)
    left = MDPOTrainer("world", args=skipping, train_dataset=faulty).train_dataset
    found = {"tried": tried, "lengths": trainer.train_dataset.lengths, "told": told, "left": len(left)}
    (folder / f"check-{rank}.json").write_text(json.dumps(found))


def choose_engine(engine):
    """accelerate shards on accelerators alone, though PyTorch and DeepSpeed do so on CPUs too: it is told of some."""
    if engine in SHARDING and PartialState._shared_state:
        AcceleratorState._reset_state()
        PartialState._shared_state["distributed_type"] = SHARDING[engine]


def record_reference_pass():
    """Notes the rows that this process scores with the start of the policy."""
    rows, score = defaultdict(list), StartOfPolicy.__call__

    def noting(self, batch, cells, **kwargs):
        rows["rows"] += batch["index"].tolist()
        return score(self, batch, cells, **kwargs)

    StartOfPolicy.__call__ = noting
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not looked through for garbage in each of the runs
    main()
