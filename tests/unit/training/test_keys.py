"""The keys of a recipe, read from source: what the classes themselves say once they are imported."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mmdpo.checkpoints.card import hyperparameters
from mmdpo.corruption import names as corruption_names
from mmdpo.data.formats import names as format_names
from mmdpo.keys import (
    DATASET,
    DECIDES,
    INHERITED,
    MODEL,
    OURS,
    TRAINING,
    Group,
    RecipeError,
    check_flags,
    describe_keys,
    known_keys,
)
from mmdpo.objective import preset_names, term_names
from mmdpo.training import config
from mmdpo.training.distributed import shared_options
from mmdpo.training.durable.resume import options_of_losses

GROUPS = (OURS, MODEL, DATASET, TRAINING)


def declared(group: Group) -> dict[str, dataclasses.Field]:
    kind = getattr(import_module(group.module), group.name)
    own = vars(kind).get("__annotations__", {})
    return {field.name: field for field in dataclasses.fields(kind) if field.name in own}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
class TestKeysFromSource:
    def test_they_are_the_fields_that_the_class_declares(self, group):
        assert sorted(key.name for key in group.read()) == sorted(declared(group))

    def test_their_help_is_that_of_the_class(self, group):
        fields = declared(group)
        for key in group.read():
            text = fields[key.name].metadata.get("help", "")
            start, _, _ = key.help.partition("…") if "…" not in text else (key.help, "", "")
            assert text.startswith(start), key.name
        assert any(key.help for key in group.read())

    def test_their_literal_defaults_are_those_of_the_class(self, group):
        fields = declared(group)
        for key in group.read():
            default = fields[key.name].default
            if key.default is not None:
                assert key.default == str(list(default) if isinstance(default, tuple) else default), key.name
            elif isinstance(default, bool | int | float):
                pytest.fail(f"{key.name} has the default {default}, which was not read")

    def test_a_class_that_moved_is_imported_instead(self, group, monkeypatch):
        monkeypatch.setattr("mmdpo.keys._parse_source", lambda *_: None)
        assert set(declared(group)) <= {key.name for key in group.read()}


class TestWhatOptionsDecide:
    def test_every_option_of_ours_says_it(self):
        fields = declared(OURS)
        assert {key.name: key.decides for key in OURS.read()} == {
            name: field.metadata["decides"] for name, field in fields.items()
        }
        assert {field.metadata["decides"] for field in fields.values()} <= set(DECIDES)

    def test_those_of_others_that_are_listed_exist(self):
        listed = {name for names in INHERITED.values() for name in names}
        # TrainingArguments of this version has no logging_dir, which older ones have.
        assert listed - known_keys() <= {"logging_dir"}

    def test_resuming_processes_and_cards_follow_a_new_option(self, monkeypatch, tmp_path):
        """Options are added to the class, one for each thing that they may decide, and nothing else is edited."""
        added = "".join(f'    new_{kind}: float = _option(0.0, "{kind}", "New.")\n' for kind in DECIDES)
        source = Path(config.__file__).read_text(encoding="utf-8")
        (tmp_path / "extended.py").write_text(source.replace("    objective: str =", f"{added}    objective: str ="))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("mmdpo.keys.OURS", Group("mmdpo", "extended", "MDPOConfig"))
        values = {f"new_{kind}": 1.0 for kind in DECIDES}
        args = import_module("extended").MDPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **values)
        assert [name for name in options_of_losses(args) if name in values] == ["new_loss"]
        assert [name for name in shared_options(args) if name in values] == [
            name for name in values if name != "new_machine"
        ]
        assert [name for name, _ in hyperparameters(values)] == ["new_loss", "new_length"]


def test_a_card_says_which_parts_are_trained_though_they_rest_by_default():
    values = {"freeze_projector": False, "freeze_vision_tower": True, "use_peft": True, "use_rslora": False}
    shown = [("freeze_vision_tower", True), ("freeze_projector", False), ("use_peft", True)]
    assert hyperparameters(values) == shown


def test_known_are_all_keys_but_those_that_mean_nothing_here():
    every = {field.name for group in GROUPS for field in declared(group).values()}
    assert known_keys() == every - {"ignore_bias_buffers"}


class TestHelp:
    def test_it_names_our_options_and_every_choice(self):
        text = describe_keys()
        names = (*preset_names(), *term_names(), *corruption_names(), *format_names())
        for name in ("crop_space", "lora_r", "dataset_name", *names):
            assert name in text
        assert "ignore_bias_buffers" not in text

    def test_it_names_what_most_runs_set_and_on_request_everything(self):
        short, full = describe_keys(), describe_keys(every=True)
        assert "output_dir" in short
        assert "resume_from_checkpoint" in short
        assert "ddp_bucket_cap_mb" not in short
        for key in known_keys():
            assert f"  {key}" in full

    @pytest.mark.parametrize("columns", [40, 80, 200])
    def test_no_line_is_wider_than_the_terminal_or_than_one_reads(self, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = describe_keys(every=True).splitlines()
        words = max(len(word) for line in lines for word in line.split())
        assert max(map(len, lines)) <= max(min(columns, 120), 32 + max(30, words))

    @pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "--confg", "x"], ["--help"], ["--version"]])
    def test_it_starts_without_the_libraries_that_take_seconds(self, arguments):
        code = (
            "import sys; from mmdpo.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "slow = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'rich', 'PIL'} & set(sys.modules)\n"
            "assert not slow, slow"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_misspelt_or_repeated_flag_is_named():
    check_flags(["--beta", "0.2", "--learning-rate=1e-4"])
    with pytest.raises(RecipeError, match="unknown flag --bta; did you mean 'beta'"):
        check_flags(["--bta", "0.2"])
    with pytest.raises(RecipeError, match="unknown flag --confg; did you mean 'config'"):
        check_flags(["--confg", "recipe.yaml"])
    with pytest.raises(RecipeError, match="--beta is given twice"):
        check_flags(["--beta", "0.2", "--beta=0.3"])
