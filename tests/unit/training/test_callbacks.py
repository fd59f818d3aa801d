"""What the terminal says of a run: one readable line for each log."""

import pytest

from mmdpo.training.callbacks import describe_log

LOGS = {
    "loss": 2.0123, "grad_norm": 1.5, "learning_rate": 1e-5, "loss/rank_response": 0.69, "logps/chosen": -12.0,
    "rewards/margins": 0.1234, "rewards/accuracies": 0.75, "rewards/image_margins": -0.02, "epoch": 0.5,
}  # fmt: skip


def test_a_step_is_told_by_its_main_numbers():
    assert describe_log(LOGS, 10, 60) == (
        "step 10/60  loss 2.0123  margin 0.1234  image margin -0.0200  accuracy 75%  lr 1.00e-05  epoch 0.50"
    )


@pytest.mark.parametrize("prefix", ["eval_", "eval_near_"])
def test_an_evaluation_is_told_alike(prefix):
    logs = {f"{prefix}{name}": value for name, value in LOGS.items() if name != "epoch"} | {"epoch": 1.0}
    told = describe_log(logs, 10, 60)
    assert told.startswith(f"step 10/60 {prefix.removesuffix('_')}  loss 2.0123  margin 0.1234")
    assert told.endswith("epoch 1.00")


def test_no_accuracy_is_told_while_neither_answer_is_preferred():
    assert "accuracy" not in describe_log({**LOGS, "rewards/margins": 3e-8, "rewards/accuracies": 0.0}, 1, 60)


def test_the_end_and_logs_of_other_kinds():
    assert describe_log({"train_runtime": 61.2, "train_loss": 2.0, "epoch": 1}, 60, 60) == (
        "trained to step 60 in 61 s, mean loss 2.0000"
    )
    assert describe_log({"mine": 3}, 1, 2) == "{'mine': 3}"
    assert "margin" not in describe_log({"loss": 1.0, "epoch": 1}, 1, 2)
