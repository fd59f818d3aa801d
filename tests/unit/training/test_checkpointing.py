"""Checkpoints: a resumed run is the one that was never interrupted, half a checkpoint is never taken for one, and what
cannot be gone on with is refused."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback

import forked
import small_trainer
from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.checkpoints.merge import merge_run
from mmdpo.folders import LOCK
from mmdpo.models.start import resolve_start
from mmdpo.models.weights import CheckpointError
from mmdpo.training import stopping
from mmdpo.training.durable import sealing
from mmdpo.training.durable.resume import RunFolderError, find_checkpoint
from mmdpo.training.durable.sealing import RECORD, UNFINISHED, SaveError, list_checkpoints, read_record
from mmdpo.training.stopping import StopRequest, TrainingStopped
from mmdpo.world.pairs import make_pairs

pytestmark = pytest.mark.slow  # whole runs, interrupted and resumed


@pytest.fixture(scope="module")
def rows():
    return make_pairs(12, seed=5)


def build_trainer(folder, rows, *callbacks, with_adapter=True, **changes):
    options = {"output_dir": str(folder), "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    options |= {"lr_scheduler_type": "cosine", "warmup_steps": 0.1, **changes}
    adapter = LoraConfig(r=2, lora_alpha=16) if with_adapter else None
    return small_trainer.build_trainer(folder, rows, peft_config=adapter, callbacks=list(callbacks), **options)


def train(*args, resume=None, **changes):
    trainer = build_trainer(*args, **changes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def history_of(trainer):
    """Every log, without the summary of a process and what depends on the clock."""
    clock = ("_runtime", "_per_second", "_preparation_time")
    logs = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    return [{name: value for name, value in entry.items() if not name.endswith(clock)} for entry in logs]


def assert_same_weights(one, other):
    for (name, value), again in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(value, again), name


def reseal(checkpoint):
    """Lets a checkpoint that was changed be whole again."""
    record = json.loads((checkpoint / RECORD).read_text())
    (checkpoint / RECORD).unlink()
    sealing.seal(checkpoint, {key: record[key] for key in ("run", "versions", "save_only_model")})


def kill_before(count, folder):
    """Kills this process before it opens, makes, renames or removes something in a folder for the count-th time."""
    left = count

    def watch(event, arguments):
        nonlocal left
        changes = event == "open" or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if changes and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class Send(TrainerCallback):
    """Does something in the middle of an optimizer step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.action()


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


class TestResuming:
    @pytest.mark.parametrize(
        "options",
        [
            dict(gradient_accumulation_steps=2, per_device_train_batch_size=1, logging_steps=4, eval_strategy="epoch"),
            dict(with_adapter=False, precompute_ref_log_probs=False, logging_steps=2, dataloader_num_workers=1),
            dict(with_adapter=False, corruption_per_epoch=True, logging_strategy="epoch", eval_strategy="epoch"),
            dict(objective="mpo", learning_rate=1e-2, logging_steps=1, eval_strategy="epoch"),
        ],
        ids=["lora, cached", "full, live, workers", "full, corruption per epoch", "a running mean"],
    )
    def test_the_history_is_the_one_of_an_uninterrupted_run_wherever_it_was_interrupted(self, tmp_path, rows, options):
        """Logs span steps, the end of an epoch has an evaluation, and checkpoints lie between and at all of them."""
        whole = train(tmp_path / "run", rows, eval_dataset=rows[:3], **options)
        steps = whole.state.global_step
        for step in (steps // 2, steps - 1):
            checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
            again = train(tmp_path / f"again-{step}", rows, eval_dataset=rows[:3], resume=checkpoint, **options)
            assert history_of(again) == history_of(whole), step
            assert_same_weights(again, whole)
            assert again.state.log_history[-1]["train_loss"] == pytest.approx(whole.state.log_history[-1]["train_loss"])

    def test_the_mean_loss_of_a_run_that_had_come_to_its_end_is_that_of_all_its_steps(self, tmp_path, rows):
        whole = train(tmp_path / "run", rows, logging_steps=4)
        again = build_trainer(tmp_path / "run", rows, logging_steps=4)
        output = again.train(resume_from_checkpoint=True)
        assert output.training_loss == output.metrics["train_loss"]
        assert output.training_loss == pytest.approx(whole.state.log_history[-1]["train_loss"])
        assert output.training_loss > 0.5

    def test_the_mean_loss_is_left_out_where_an_older_checkpoint_does_not_say_it(self, tmp_path, rows, caplog):
        train(tmp_path / "run", rows)
        checkpoint = tmp_path / "run" / "checkpoint-3"
        unlogged = torch.load(checkpoint / "since_last_log_0.pt", weights_only=True)
        del unlogged["total"]
        torch.save(unlogged, checkpoint / "since_last_log_0.pt")
        reseal(checkpoint)
        again = train(tmp_path / "run", rows, resume=str(checkpoint))
        assert "train_loss" not in again.state.log_history[-1]
        assert "train_loss is left out" in caplog.text

    def test_a_run_that_has_taken_all_its_steps_takes_no_further_one(self, tmp_path, rows):
        """Its last step lies in the middle of an epoch."""
        whole = train(tmp_path / "run", rows, max_steps=4)
        again = train(tmp_path / "run", rows, max_steps=4, resume=True)
        assert again.state.global_step == 4
        assert_same_weights(again, whole)

    def test_a_longer_run_and_other_intervals_are_no_other_run(self, tmp_path, rows, caplog):
        caplog.set_level("INFO")
        train(tmp_path / "run", rows, save_strategy="epoch", num_train_epochs=1)
        longer = train(tmp_path / "run", rows, num_train_epochs=3, logging_steps=2, save_steps=2, resume=True)
        assert [entry["step"] for entry in history_of(longer)] == [1, 2, 3, 4, 6, 8]
        assert [path.name for path in list_checkpoints(tmp_path / "run")] == [
            f"checkpoint-{n}" for n in (3, 4, 6, 8, 9)
        ]
        assert [text for text in caplog.messages if "resuming" in text] == [
            f"resuming from {tmp_path / 'run' / 'checkpoint-3'}"
        ]

    def test_the_evaluation_of_the_start_is_not_repeated(self, tmp_path, rows):
        options = dict(eval_dataset=rows[:3], eval_on_start=True, num_train_epochs=1)
        whole = train(tmp_path / "run", rows, **options)
        again = train(tmp_path / "run", rows, resume=str(tmp_path / "run" / "checkpoint-1"), **options)
        assert history_of(again) == history_of(whole)


class TestRefusals:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory, rows):
        folder = tmp_path_factory.mktemp("refused") / "run"
        train(folder, rows, num_train_epochs=1, save_steps=2)
        return folder

    def refuse(self, run, rows, **changes):
        with pytest.raises(CheckpointError) as caught:
            train(run, rows, resume=True, **changes)
        return str(caught.value)

    def test_options_that_decide_losses_are_all_named(self, run, rows):
        told = self.refuse(run, rows, beta=0.2, seed=2, gradient_accumulation_steps=2, logging_steps=7)
        assert f"{run / 'checkpoint-3'} belongs to another run" in told
        assert "beta: 0.1 there, 0.2 now" in told
        assert "seed: 1 there, 2 now" in told
        assert "gradient_accumulation_steps: 1 there, 2 now" in told
        assert told.count("there") == 3
        assert "another output_dir" in told

    def test_rows_adapter_and_model_are_compared_by_what_they_hold(self, run, rows):
        assert "rows: 12 there, 11 now" in self.refuse(run, rows[:-1])
        assert "contents of the rows" in self.refuse(run, [*rows[1:], rows[0]])
        assert "engine" not in self.refuse(run, [*rows[1:], rows[0]])
        assert "adapter's peft_type" not in self.refuse(run, rows, with_adapter=False, beta=0.2)

        other = build_trainer(run, rows, with_adapter=False).model
        other.lm_head.weight.data.mul_(1.001)
        told = self.refuse(run, rows, model=other)
        assert "weights of the model" in told
        assert "weights of the reference" in told

    def test_columns_that_nothing_reads_may_come_and_go(self, tmp_path, rows):
        bare = [{name: row[name] for name in ("id", "images", "prompt", "chosen", "rejected")} for row in rows]
        train(tmp_path / "run", bare, num_train_epochs=1, save_steps=3)
        train(tmp_path / "run", rows, save_steps=3, resume=True)
        train(tmp_path / "run", bare, num_train_epochs=3, save_steps=3, resume=True)

    def test_a_column_that_the_objective_reads_is_compared(self, tmp_path, rows):
        train(tmp_path / "run", rows, objective="opa", num_train_epochs=1, save_steps=3)
        changed = [{**rows[0], "alternative": [{"role": "assistant", "content": "a cup ."}]}, *rows[1:]]
        assert "contents of the rows" in self.refuse(tmp_path / "run", changed, objective="opa")

    def test_what_rows_say_of_their_corruption_is_compared(self, run, rows):
        marked = [{**rows[0], "rejected_noised": 1}, *rows[1:]]
        assert "masks, boxes and flags of the rows" in self.refuse(run, marked)

    def test_another_number_of_processes_is_refused_and_the_remedy_said(self, run, rows, monkeypatch):
        monkeypatch.setattr(MDPOConfig, "world_size", property(lambda _: 2))
        trainer = build_trainer(run, rows)
        told = trainer.describe_run()
        monkeypatch.undo()
        assert told["processes"] == 2
        monkeypatch.setattr(MDPOTrainer, "describe_run", lambda _: told)
        error = self.refuse(run, rows)
        assert "processes: 1 there, 2 now" in error
        assert "as many processes" in error

    @pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors", "trainer_state.json", RECORD])
    def test_a_file_that_is_cut_short_is_named_and_the_last_whole_checkpoint_is_taken(self, run, tmp_path, rows, name):
        shutil.copytree(run, tmp_path / "run")
        cut = tmp_path / "run" / "checkpoint-3" / name
        cut.write_bytes(cut.read_bytes()[:-20])
        with pytest.raises(CheckpointError, match=name):
            train(tmp_path / "run", rows, resume=str(cut.parent))
        assert sealing.find_last_whole(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
        shutil.rmtree(tmp_path / "run" / "checkpoint-2")
        with pytest.raises(CheckpointError, match=f"no checkpoint in .*{name}"):
            sealing.find_last_whole(tmp_path / "run")

    def test_changed_bytes_and_missing_files_are_noticed_and_an_edited_card_is_none(self, run, tmp_path):
        copy = shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
        (copy / "README.md").write_text("better words")
        read_record(copy)
        content = bytearray((copy / "optimizer.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "optimizer.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"optimizer\.pt is cut short or damaged"):
            read_record(copy)
        (copy / "optimizer.pt").unlink()
        with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing"):
            read_record(copy)

    def test_a_record_that_says_nothing_is_none(self, run, tmp_path):
        copy = shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
        (copy / RECORD).write_text("{}")
        with pytest.raises(CheckpointError, match=rf"{RECORD} is damaged"):
            read_record(copy)

    @pytest.mark.parametrize(
        "damage",
        [
            {"run": []}, {"run": None}, {"versions": "5.0"}, {"save_only_model": "no"},
            {"files": ["optimizer.pt"]}, {"files": {"optimizer.pt": 3}}, {"files": {"optimizer.pt": {}}},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_record_of_other_kinds_of_values_is_none(self, run, tmp_path, damage):
        copy = shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
        (copy / RECORD).write_text(json.dumps(json.loads((copy / RECORD).read_text()) | damage))
        with pytest.raises(CheckpointError, match=rf"{RECORD} is damaged"):
            read_record(copy)

    def test_a_record_nested_without_end_is_none(self, run, tmp_path):
        copy = shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
        (copy / RECORD).write_text("[" * 100_000)
        with pytest.raises(CheckpointError, match=RECORD):
            read_record(copy)

    def test_a_checkpoint_without_the_optimizer_is_refused(self, tmp_path, rows):
        train(tmp_path / "run", rows, num_train_epochs=1, save_only_model=True)
        assert "save_only_model" in self.refuse(tmp_path / "run", rows, num_train_epochs=1)

    def test_transformers_own_way_of_saving_on_sigterm_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="enable_jit_checkpoint"):
            MDPOConfig(output_dir=str(tmp_path), enable_jit_checkpoint=True)


class TestSealing:
    def test_older_checkpoints_are_removed_only_after_the_newer_one_is_sealed(self, tmp_path, rows, monkeypatch):
        seen, seal = [], sealing.seal

        def look(checkpoint, content):
            seen.append([path.name for path in list_checkpoints(checkpoint.parent)])
            seal(checkpoint, content)

        monkeypatch.setattr(sealing, "seal", look)
        trainer = train(tmp_path / "run", rows, num_train_epochs=1, save_total_limit=1)
        assert seen == [[], ["checkpoint-1"], ["checkpoint-2"]]
        assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-3"]
        saved = torch.load(tmp_path / "run" / "checkpoint-3" / "training_args.bin", weights_only=False)
        assert trainer.args.save_total_limit == saved.save_total_limit == 1

    def test_at_the_end_the_best_one_alone_is_left_where_the_limit_is_one(self, tmp_path, rows):
        best = dict(load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True)
        options = dict(save_strategy="epoch", eval_strategy="epoch", save_total_limit=1, eval_dataset=rows[:3])
        trainer = train(tmp_path / "run", rows, **options, **best)
        assert [str(path) for path in list_checkpoints(tmp_path / "run")] == [trainer.state.best_model_checkpoint]

    @pytest.mark.parametrize("with_adapter", [True, False])
    def test_the_best_one_is_found_where_the_run_folder_was_moved_to(self, tmp_path, rows, with_adapter):
        best = dict(load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True)
        options = dict(save_strategy="epoch", eval_strategy="epoch", eval_dataset=rows[:3], with_adapter=with_adapter)
        before = train(tmp_path / "run", rows, **options, **best)
        (tmp_path / "run").rename(tmp_path / "moved")
        after = train(tmp_path / "moved", rows, **options, **best, resume=True)
        assert Path(after.state.best_model_checkpoint) == tmp_path / "moved" / "checkpoint-3"
        assert_same_weights(before, after)

    def test_a_checkpoint_is_pushed_once_and_sealed(self, tmp_path, rows, monkeypatch):
        pushed = []
        monkeypatch.setattr(
            Trainer, "_push_from_checkpoint", lambda _, folder: pushed.append((folder, bool(read_record(Path(folder)))))
        )
        trainer = build_trainer(tmp_path / "run", rows, max_steps=2)
        trainer.args.push_to_hub = True
        trainer.train()
        assert pushed == [(str(tmp_path / "run" / f"checkpoint-{step}"), True) for step in (1, 2)]


class Spoil(TrainerCallback):
    """Makes a weight infinite once a step is done, as an overflow of its gradient does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = torch.inf


class TestWeightsThatAreNotFinite:
    @pytest.mark.parametrize("with_adapter", [True, False])
    def test_no_checkpoint_is_written_of_them_and_what_was_there_stays(self, tmp_path, rows, with_adapter):
        with pytest.raises(FloatingPointError, match=r"after step 2 the weight \S+ is not finite.*checkpoint-1"):
            train(tmp_path / "run", rows, Spoil(2), with_adapter=with_adapter)
        assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-1"]
        assert not (tmp_path / "run" / UNFINISHED).exists()

    def test_no_model_is_written_of_them(self, tmp_path, rows):
        trainer = build_trainer(tmp_path / "run", rows, Spoil(6), save_strategy="no")
        trainer.train()
        with pytest.raises(FloatingPointError, match=r"after step 6 the weight .* there is no checkpoint yet"):
            trainer.save_model()
        assert not list((tmp_path / "run").rglob("*.safetensors"))

    @pytest.mark.parametrize("with_adapter", [True, False])
    def test_a_checkpoint_that_holds_them_is_refused(self, tmp_path, rows, with_adapter):
        options = dict(with_adapter=with_adapter, num_train_epochs=1)
        train(tmp_path / "run", rows, **options)
        checkpoint = tmp_path / "run" / "checkpoint-2"
        file = checkpoint / ("adapter_model.safetensors" if with_adapter else "model.safetensors")
        with safe_open(file, "pt") as opened:
            tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
        moved = next(name for name in tensors if "lora_" in name or "language_model" in name)
        tensors[moved].view(-1)[0] = torch.nan
        save_file(tensors, file, metadata)
        reseal(checkpoint)
        with pytest.raises(CheckpointError, match=r"checkpoint-2 holds a weight that is not finite"):
            train(tmp_path / "run", rows, resume=str(checkpoint), **options)


class TestTwoRunsInOneFolder:
    def test_the_second_is_refused_and_the_first_is_not_disturbed(self, tmp_path, rows):
        folder = tmp_path / "run"
        told = {}

        def start_another():
            status, _, error = forked.run(
                "train", "--model_name_or_path", "world", "--dataset_name", "world", "--output_dir", folder,
                "--report_to", "none", "--use_cpu", "true", "--max_steps", "1", "--resume_from_checkpoint", "true",
            )  # fmt: skip
            told.update(status=status, error=error, files=sorted(p.name for p in folder.iterdir()))

        options = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2)
        trainer = train(folder, rows, Send(2, start_another), num_train_epochs=1, **options)
        assert trainer.state.global_step == 3
        assert told["status"] == 2
        assert f"{folder} is in use by process {os.getpid()} on" in told["error"]
        assert told["files"] == [LOCK, "checkpoint-1"]
        assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
        assert not (folder / LOCK).exists()


class TestFullDisk:
    @pytest.mark.parametrize("limit", [20_000, 80_000], ids=["the adapter does not fit", "the optimizer does not fit"])
    def test_a_checkpoint_that_does_not_fit_is_reported_and_removed(self, tmp_path, rows, limit):
        """A limit on the size of files makes real writes fail, as a full disk does."""

        def fill_disk():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        options = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2)
        try:
            with pytest.raises(SaveError) as caught:
                train(tmp_path / "run", rows, Send(3, fill_disk), **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        told = str(caught.value)
        assert str(tmp_path / "run" / "checkpoint-3") in told
        assert f"the last checkpoint is {tmp_path / 'run' / 'checkpoint-2'}" in told
        assert "are free, and about 0.2 MiB are needed" in told
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-1", "checkpoint-2"}
        again = train(tmp_path / "run", rows, resume=True, **options)
        assert again.state.global_step == 6

    def test_no_space_for_the_final_model(self, tmp_path, rows, monkeypatch):
        trainer = build_trainer(tmp_path / "run", rows)

        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(type(trainer.model), "save_pretrained", fail)
        with pytest.raises(SaveError, match=r"run could not be written .*No space left.*there is no checkpoint yet"):
            trainer.save_model()
        assert not (tmp_path / "run" / UNFINISHED).exists()

    def test_other_errors_stay_what_they_are(self, tmp_path, rows, monkeypatch):
        trainer = build_trainer(tmp_path / "run", rows)
        monkeypatch.setattr(type(trainer.model), "save_pretrained", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.train()
        assert not list((tmp_path / "run").rglob("*.*"))

    def test_too_little_space_is_said_before_training(self, tmp_path, rows, monkeypatch, caplog):
        monkeypatch.setattr(sealing, "find_free_bytes", lambda _: 2**20)
        trainer = build_trainer(tmp_path / "run", rows, with_adapter=False)
        with caplog.at_level("WARNING", logger="mmdpo"):
            trainer.open_run_folder(None)
        assert "1.0 MiB are free, and about" in caplog.text


class TestSigterm:
    @pytest.fixture(scope="class")
    def options(self, rows):
        return dict(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            save_strategy="epoch",
            eval_dataset=rows[:3],
            eval_strategy="epoch",
            logging_steps=2,
        )

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory, rows, options):
        return train(tmp_path_factory.mktemp("whole") / "run", rows, **options)

    @pytest.mark.parametrize("step", [2, 3, 6], ids=["amid an epoch", "at its end", "at the end of all"])
    def test_the_step_is_finished_saved_and_gone_on_from(self, tmp_path, rows, options, whole, step):
        before = signal.getsignal(signal.SIGTERM)
        stopped = build_trainer(tmp_path / "run", rows, Send(step, sigterm), **options)
        with pytest.raises(TrainingStopped, match=f"step {step}, which .*checkpoint-{step} holds.*resume"):
            stopped.train()
        assert signal.getsignal(signal.SIGTERM) is before
        again = train(tmp_path / "run", rows, resume=True, **options)
        assert history_of(again) == history_of(whole)
        assert_same_weights(again, whole)

    def test_it_saves_where_nothing_else_would_and_keeps_that_beside_the_best(self, tmp_path, rows):
        options = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, save_total_limit=1)
        best = dict(load_best_model_at_end=True, metric_for_best_model="loss", eval_strategy="epoch")
        worse = dict(save_strategy="best", eval_strategy="steps", eval_steps=1, greater_is_better=True)
        cases = {"none": dict(save_strategy="no"), "worse": best | worse, "best": dict(save_strategy="epoch", **best)}
        for name, more in cases.items():
            trainer = build_trainer(tmp_path / name, rows, Send(5, sigterm), eval_dataset=rows[:3], **options, **more)
            with pytest.raises(TrainingStopped):
                trainer.train()
            assert "checkpoint-5" in [path.name for path in list_checkpoints(tmp_path / name)]
        assert Path(trainer.state.best_model_checkpoint) == tmp_path / "best" / "checkpoint-3"
        assert (tmp_path / "best" / "checkpoint-3").is_dir()

    def test_workers_survive_a_signal_to_all_processes_of_a_job_and_end_with_their_parent(self, tmp_path, rows):
        hit = []

        def signal_workers():
            hit.extend(child.pid for child in active_children())
            subprocess.run(["kill", "-TERM", *map(str, hit)], check=True)  # by another process than their parent

        options = dict(per_device_train_batch_size=1, gradient_accumulation_steps=2, dataloader_num_workers=1)
        trainer = train(tmp_path / "run", rows, Send(2, signal_workers), num_train_epochs=1, save_steps=10, **options)
        assert hit
        assert trainer.state.global_step == 6

    def test_a_second_signal_ends_the_process_unless_it_is_the_same_one_passed_on_twice(self, monkeypatch):
        ended, request = [], StopRequest()
        before = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
        try:
            with request.listening():
                sigterm()
                sigterm()
                assert not ended
                monkeypatch.setattr(stopping, "SAME_REQUEST_S", -1)
                sigterm()
                assert ended
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_another_thread_leaves_the_handler_alone(self):
        seen = []

        def listen():
            with StopRequest().listening():
                seen.append(signal.getsignal(signal.SIGTERM))

        before = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert seen == [before]


class TestFolder:
    def make(self, folder, content="new"):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(content)
        return folder

    @pytest.mark.parametrize("with_older", [True, False])
    def test_a_kill_before_any_file_operation_leaves_the_older_or_the_newer_checkpoint_whole(
        self, tmp_path, with_older
    ):
        """A child writes a checkpoint and dies before its first, second, … file operation, until it ends."""
        content = {"run": {}, "versions": {}, "save_only_model": False}
        for operations in itertools.count(1):
            run = tmp_path / str(operations)
            run.mkdir()
            checkpoint = run / "checkpoint-4"
            if with_older:
                sealing.begin(checkpoint)
                (checkpoint / "weights").write_text("older")
                sealing.seal(checkpoint, content)
            if child := os.fork():
                status = os.waitpid(child, 0)[1]
            else:
                try:
                    kill_before(operations, run)
                    sealing.begin(checkpoint)
                    (checkpoint / "weights").write_text("newer")
                    sealing.seal(checkpoint, content)
                    os._exit(0)
                except BaseException:  # else it would go on as a second pytest
                    (run / "said").write_text(traceback.format_exc())
                    os._exit(1)
            assert not (run / "said").exists(), (run / "said").read_text()
            assert status in (0, signal.SIGKILL)
            sealing.clear_unfinished(run)
            found = sealing.find_last_whole(run)
            assert {path.name for path in run.iterdir()} <= {"checkpoint-4"}
            if found is None:
                assert not with_older
            else:
                assert (found / "weights").read_text() in ("older", "newer")
            if status == 0:
                break
        assert operations > 8
        assert (found / "weights").read_text() == "newer"

    def test_what_was_begun_and_not_sealed_is_no_checkpoint(self, tmp_path):
        sealing.begin(tmp_path / "checkpoint-4")
        (tmp_path / "checkpoint-4" / "weights").write_text("half")
        assert list_checkpoints(tmp_path) == []
        with pytest.raises(CheckpointError, match="has finished writing"):
            read_record(tmp_path / "checkpoint-4")
        for refused in (resolve_start, lambda name: merge_run(Path(name), tmp_path / "merged")):
            with pytest.raises(CheckpointError, match="has not finished writing"):
                refused(str(tmp_path / "checkpoint-4"))
        sealing.clear_unfinished(tmp_path)
        assert not any(tmp_path.iterdir())

    def test_the_oldest_go_first_and_never_the_newest_or_the_best(self, tmp_path):
        for step in (2, 10, 4, 8):
            self.make(tmp_path / f"checkpoint-{step}")
        self.make(tmp_path / "checkpoint-notes")
        # Steps 8 and 10 are of an attempt that was given up: step 4 is the newest.
        sealing.rotate(tmp_path, 2, [tmp_path / "checkpoint-4", tmp_path / "checkpoint-2"])
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4", "checkpoint-notes"}
        sealing.rotate(tmp_path, 1, [tmp_path / "checkpoint-4", tmp_path / "checkpoint-2"])
        sealing.rotate(tmp_path, None, [])
        assert len(list_checkpoints(tmp_path)) == 2

    def test_half_a_model_has_no_configuration(self, tmp_path, monkeypatch):
        target = tmp_path / "run"
        self.make(target, "old")
        (target / "config.json").write_text("old")
        aside = self.make(target / UNFINISHED / "model")
        (aside / "config.json").write_text("new")
        replace = Path.replace

        def replace_first(path, other):
            if path.name == "config.json":
                raise KeyboardInterrupt
            return replace(path, other)

        monkeypatch.setattr(Path, "replace", replace_first)
        with pytest.raises(KeyboardInterrupt):
            sealing.publish_model(aside, target)
        assert (target / "weights").read_text() == "new"
        assert not (target / "config.json").exists()


class TestRunFolder:
    def find(self, folder):
        return find_checkpoint(MDPOConfig(output_dir=str(folder), resume_from_checkpoint="true", report_to="none"))

    def test_what_a_run_leaves_behind_before_its_first_checkpoint_is_a_beginning(self, tmp_path):
        assert self.find(tmp_path / "nowhere") is None
        (tmp_path / UNFINISHED).mkdir()
        (tmp_path / "skipped_rows.jsonl").touch()
        assert self.find(tmp_path) is None
        (tmp_path / "recipe.yaml").touch()
        (tmp_path / "runs").mkdir()
        assert self.find(tmp_path) is None

    def test_a_finished_model_and_strange_files_are_not(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(RunFolderError, match=r"no checkpoint to resume from.*notes\.txt"):
            self.find(tmp_path)
        (tmp_path / "recipe.yaml").touch()
        (tmp_path / "model-00001-of-00002.safetensors").touch()
        with pytest.raises(RunFolderError, match="no checkpoint to resume from"):
            self.find(tmp_path)

    def test_a_checkpoint_that_is_not_whole_is_refused_before_anything_is_loaded(self, tmp_path):
        (tmp_path / "checkpoint-1").mkdir()
        for wanted in ("true", str(tmp_path / "checkpoint-1"), str(tmp_path / "checkpoint-2")):
            with pytest.raises(CheckpointError, match=r"checkpoint\.json is missing|is no folder"):
                find_checkpoint(MDPOConfig(output_dir=str(tmp_path), resume_from_checkpoint=wanted, report_to="none"))


def test_the_record_names_every_file_and_the_run(tmp_path, rows):
    train(tmp_path / "run", rows, max_steps=1)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    record = json.loads((checkpoint / RECORD).read_text())
    assert set(record["files"]) == {p.name for p in checkpoint.iterdir()} - {RECORD, "README.md"}
    assert record["run"]["objective"] == "mdpo"
    assert record["run"]["rows"] == 12
    assert record["run"]["adapter's r"] == 2
