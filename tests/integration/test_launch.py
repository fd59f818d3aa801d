"""Launchers: configurations of accelerate, `accelerate launch -m mmdpo.train` on two processes, the Slurm script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from mmdpo.world.pairs import make_pairs

RECIPES = Path(__file__).parents[2] / "src" / "mmdpo" / "recipes"
CONFIGURATIONS = sorted((RECIPES / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_its_configuration(path):
    config = load_config_from_file(str(path))  # raises for a key that it does not know
    assert config.num_processes == 8 * config.num_machines
    assert config.mixed_precision == "no", "the recipe decides"
    engine = {"fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type == engine.get(path.stem, "MULTI_GPU")
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert not config.fsdp_config["fsdp_cpu_ram_efficient_loading"]
    if path.stem.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
        assert not config.deepspeed_config["zero3_init_flag"]


@pytest.mark.slow
def test_two_processes_are_launched_and_one_of_them_speaks(tmp_path):
    rows = []
    for number, row in enumerate(make_pairs(7, seed=11)):
        row["images"][0].save(tmp_path / f"{number}.png")
        rows.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    recipe = {
        "model_name_or_path": "world",
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "use_peft": True,
        "lora_r": 2,
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(RECIPES / "accelerate/ddp.yaml"),
    ]
    arguments = ["--num_processes", "2", "--main_process_port", "0", "-m", "mmdpo.train"]
    done = subprocess.run(
        [*launcher, *arguments, "--config", str(tmp_path / "recipe.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spoken = done.stdout + done.stderr
    assert spoken.count("Model, recipe and logs") == 1
    assert spoken.count("dropout is off in policy and reference") == 1
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 2, "seven rows are two steps of at most four"
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def test_slurm_starts_a_launcher_on_every_machine(tmp_path):
    stubs = {
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        # What Slurm does on the second machine: run the command given after the options.
        "srun": 'shift; SLURM_NODEID=1 exec "$@"',
        "accelerate": 'printf "%s\\n" "$@"',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32", "SLURM_NNODES": "2", "SLURM_JOB_ID": "41234"}
    done = subprocess.run(
        ["bash", str(RECIPES / "slurm/train.sbatch"), "recipe.yaml", "--output_dir", "a folder"],
        env={"PATH": path, "SLURM_JOB_NODELIST": "node-[a-b]", **slurm},
        capture_output=True,
        text=True,
        check=True,
    )
    given = done.stdout.splitlines()
    assert given[0] == "launch"
    assert Path(given[given.index("--config_file") + 1]) == RECIPES / "accelerate" / "multi_node.yaml"
    options = dict(zip(given[3:13:2], given[4:13:2], strict=True))
    assert options == {
        "--num_machines": "2",
        "--num_processes": "8",
        "--machine_rank": "1",
        "--main_process_ip": "node-a",
        "--main_process_port": "21234",
    }
    assert given[13:] == ["-m", "mmdpo.train", "--config", "recipe.yaml", "--output_dir", "a folder"]
