"""What the terminal says of a run: one readable line for each log."""

import pytest
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback as TheirBar

from mmdpo.training.callbacks import PlainStepLines, StepLines, describe_log, show_lines

LOGS = {
    "loss": 2.0123, "grad_norm": 1.5, "learning_rate": 1e-5, "loss/rank_response": 0.69, "logps/chosen": -12.0,
    "rewards/margins": 0.1234, "rewards/accuracies": 0.75, "rewards/image_margins": -0.02, "epoch": 0.5,
}  # fmt: skip


class NotATheirs(TrainerCallback):
    """A callback of the user."""


def test_a_step_is_told_by_its_main_numbers():
    assert describe_log(LOGS, 10, 60) == ("step 10/60  loss 2.0123  margin 0.123  image margin -0.020  accuracy 75%")
    assert describe_log(LOGS, 10, 60, 3723.4).endswith("accuracy 75%  1:02:03 left")
    assert describe_log(LOGS, 60, 60, 0.0).endswith("accuracy 75%")
    assert len(describe_log({**LOGS, "rewards/margins": -12.3456}, 99999, 100000, 360000)) < 100


@pytest.mark.parametrize("prefix", ["eval_", "eval_near_"])
def test_an_evaluation_is_told_alike(prefix):
    logs = {f"{prefix}{name}": value for name, value in LOGS.items() if name != "epoch"} | {"epoch": 1.0}
    told = f"{prefix.removesuffix('_')}  loss 2.0123  margin 0.123  image margin -0.020  accuracy 75%"
    assert describe_log(logs, 10, 60, 99.0) == f"step 10/60 {told}"
    assert describe_log(logs, 0, 0) == told


def test_no_accuracy_is_told_while_neither_answer_is_preferred():
    assert "accuracy" not in describe_log({**LOGS, "rewards/margins": 3e-8, "rewards/accuracies": 0.0}, 1, 60)


def test_the_end_and_logs_of_other_kinds():
    assert describe_log({"train_runtime": 61.2, "train_loss": 2.0, "epoch": 1}, 60, 60) == (
        "trained to step 60 in 01:01, mean loss 2.0000"
    )
    assert describe_log({"mine": 3}, 1, 2) == "{'mine': 3}"
    assert "margin" not in describe_log({"loss": 1.0, "epoch": 1}, 1, 2)


class Told:
    """A run's state, as transformers hands it to callbacks."""

    def __init__(self, step, steps=10, is_main=True):
        self.global_step, self.max_steps, self.is_world_process_zero = step, steps, is_main


@pytest.mark.parametrize("lines", [StepLines, PlainStepLines])
def test_time_left_is_that_of_the_steps_of_this_process(lines, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("mmdpo.training.callbacks.monotonic", lambda: now[0])
    callback = lines()
    callback.on_train_begin(None, Told(6), None)  # resumed after step 6
    callback.on_log(None, Told(6), None, logs=LOGS)
    now[0] = 120.0
    callback.on_log(None, Told(8), None, logs=LOGS)
    callback.on_log(None, Told(8, is_main=False), None, logs=LOGS)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("75%")[2].strip() for line in printed] == ["", "00:20 left"]
    if lines is StepLines:
        assert callback.training_bar.n == 6
        callback.on_train_end(None, Told(8), None)
        callback.on_log(None, Told(8), None, logs={"eval_loss": 1.0})
        assert capsys.readouterr().out == "step 8/10 eval  loss 1.0000\n"


@pytest.mark.parametrize(
    ("is_terminal", "theirs", "ours"),
    [
        (True, TheirBar, StepLines),
        (False, TheirBar, PlainStepLines),
        (True, PrinterCallback, PlainStepLines),
        (True, NotATheirs, NotATheirs),
    ],
)
def test_what_transformers_prints_is_replaced_and_nothing_else(is_terminal, theirs, ours, monkeypatch):
    class Trainer:
        def __init__(self):
            self.callback_handler = self
            self.callbacks = [theirs()]

        def remove_callback(self, callback):
            self.callbacks.remove(callback)

        def add_callback(self, callback):
            self.callbacks.append(callback())

    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    trainer = Trainer()
    show_lines(trainer)
    assert [type(callback) for callback in trainer.callbacks] == [ours]
