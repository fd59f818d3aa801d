"""No token leaves the process, no pickle is opened and no code of a checkpoint is run unless that is asked for."""

import json
import logging
import pickle
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmdpo.cli import main
from mmdpo.models.load import load_config, load_model
from mmdpo.models.start import resolve_start
from mmdpo.training.config import MDPOConfig
from mmdpo.world.model import CHECKPOINT
from small_trainer import write_pairs

SECRET = "hf_thisIsASecretOfMine"


def config(tmp_path, **options):
    return MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", **options)


@pytest.fixture
def pickled(tmp_path):
    """The world's checkpoint with its weights as a pickle."""
    folder = tmp_path / "pickled"
    shutil.copytree(CHECKPOINT, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


class TestTokens:
    def test_none_is_in_what_a_configuration_prints_or_pickles(self, tmp_path):
        args = config(tmp_path, hub_token=SECRET, model_init_kwargs={"token": SECRET, "revision": "main"})
        assert args.model_init_kwargs["token"] == SECRET, "loading still has it"
        for written in (repr(args), str(args), args.to_json_string(), json.dumps(args.to_dict(), default=str)):
            assert SECRET not in written
            assert "revision" in written
        again = pickle.loads(pickle.dumps(args))
        assert again.hub_token is None
        assert again.model_init_kwargs == {"revision": "main"}
        assert again.to_dict() == args.to_dict()

    @pytest.mark.usefixtures("one_panel_on_a_card")
    @pytest.mark.parametrize("use_peft", [True, pytest.param(False, marks=pytest.mark.slow)])
    def test_none_is_in_any_file_or_line_of_a_run(self, tmp_path, capsys, caplog, use_peft):
        values = {
            "model_name_or_path": "world", "dataset_name": str(write_pairs(tmp_path, 4)), "use_peft": use_peft,
            "output_dir": str(tmp_path / "run"), "hub_token": SECRET, "model_init_kwargs": {"token": SECRET},
            "max_steps": 1, "gradient_checkpointing": False, "use_cpu": True, "report_to": "tensorboard",
            "logging_steps": 1, "save_strategy": "steps", "save_steps": 1,
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        with caplog.at_level(logging.DEBUG):
            assert main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 0
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err + caplog.text
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        names = {path.name for path in files}
        assert {"README.md", "recipe.yaml", "training_args.bin", "trainer_state.json"} <= names
        assert any(name.startswith("events.out") for name in names)
        assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


class TestPickles:
    def test_they_are_refused_with_the_way_out(self, pickled, tmp_path):
        with pytest.raises(OSError, match=r"no weights in safetensors.*allow_pickle: true"):
            load_model(resolve_start(str(pickled), config(tmp_path).load_options()))
        model = load_model(resolve_start(str(pickled), config(tmp_path, allow_pickle=True).load_options()))
        expected = load_file(CHECKPOINT / "model.safetensors")
        assert len(model.state_dict()) == len(expected)

    def test_another_error_stays_what_it_is(self, tmp_path):
        with pytest.raises(OSError, match=r"couldn't connect|nobody/nothing") as raised:
            load_model(resolve_start("nobody/nothing", config(tmp_path).load_options()))
        assert "allow_pickle" not in str(raised.value)


class TestRemoteCode:
    def test_it_is_off_and_asking_for_it_warns(self, tmp_path, caplog):
        config(tmp_path)
        assert "trust_remote_code" not in caplog.text
        config(tmp_path, trust_remote_code=True)
        assert "are run in this process, with your rights" in caplog.text

    @pytest.mark.parametrize("key", ["trust_remote_code", "use_safetensors"])
    def test_it_cannot_be_asked_for_in_passing(self, tmp_path, key):
        with pytest.raises(ValueError, match="are options of their own"):
            config(tmp_path, model_init_kwargs={key: True})

    def test_code_of_a_checkpoint_is_not_run(self, tmp_path):
        folder = tmp_path / "coded"
        shutil.copytree(CHECKPOINT, folder)
        settings = json.loads((folder / "config.json").read_text())
        settings |= {"model_type": "coded", "auto_map": {"AutoConfig": "coded.Coded"}}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "coded.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
        with pytest.raises(ValueError, match=r"coded"):
            load_config(resolve_start(str(folder), config(tmp_path).load_options()))
        assert not (tmp_path / "was run").exists()
