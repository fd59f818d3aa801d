"""Two processes are one: the same losses, gradient norms and metrics as a single process with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.world.pairs import make_pairs

folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
with_adapter, precompute, is_sharded = (argument == "1" for argument in sys.argv[3:6])
fsdp = dict(version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", transformer_layer_cls_to_wrap=["LlamaDecoderLayer"])
args = MDPOConfig(
    output_dir=str(folder), per_device_train_batch_size=batch_size, num_train_epochs=1, learning_rate=1e-3,
    lr_scheduler_type="constant", warmup_steps=0, gradient_checkpointing=False, freeze_projector=False,
    logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=1,
    precompute_ref_log_probs=precompute, ref_cache_dir=str(folder / "cache"),
    **(dict(fsdp=True, fsdp_config=fsdp) if is_sharded else {}),
)
if is_sharded:
    # accelerate knows FSDP for accelerators alone, though PyTorch shards on CPUs as well.
    args.distributed_state
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
adapter = LoraConfig(r=2, lora_alpha=16) if with_adapter else None
trainer = MDPOTrainer("world", args=args, train_dataset=make_pairs(12, seed=5), peft_config=adapter)
trainer.train()
assert trainer.is_fsdp_enabled == is_sharded
assert not is_sharded or any(type(p).__name__ == "DTensor" for p in trainer.model_wrapped.parameters())
if trainer.is_world_process_zero():
    (folder / "history.json").write_text(json.dumps(trainer.state.log_history))
"""


def run(folder: Path, processes: int, with_adapter: bool, precompute: bool, is_sharded: bool = False):
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_addr=127.0.0.1"]
        launcher += [f"--master_port={port}"]
    switches = [str(int(switch)) for switch in (with_adapter, precompute, is_sharded)]
    arguments = [str(folder), str(4 // processes), *switches]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*launcher, str(script), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((folder / "history.json").read_text())
    return [entry for entry in history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("with_adapter", "precompute", "engines"),
    [(True, False, ["ddp", "fsdp2"]), (False, True, ["ddp"]), (False, False, ["fsdp2"])],
    ids=["lora", "precomputed", "full"],
)
def test_two_processes_equal_one(tmp_path, with_adapter, precompute, engines):
    one = run(tmp_path / "one", 1, with_adapter, precompute)
    assert one[-1]["loss"] != pytest.approx(one[0]["loss"], rel=1e-3), "nothing was learnt, nothing was compared"
    for engine in engines:
        two = run(tmp_path / engine, 2, with_adapter, precompute, is_sharded=engine == "fsdp2")
        assert len(one) == len(two) == 3
        for ours, theirs in zip(two, one, strict=True):
            for name in ("loss", "grad_norm", "rewards/margins", "rewards/image_margins", "logps/chosen"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), (engine, name)
