"""With the image and anchor terms at zero, mmdpo is DPO: the same losses, gradients and metrics as TRL's DPOTrainer."""

import warnings

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.objective.losses import PAIRWISE
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs

PAIRS = 12
PLAIN = ("sigmoid", "ipo", "robust")
ZERO_WEIGHTS = """[
  {"rank": [["original", "chosen"], ["original", "rejected"]]},
  {"rank": [["original", "chosen"], ["corrupted", "chosen"]], "weight": 0},
  {"anchor": ["original", "chosen"], "weight": 0}
]"""


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_list(make_pairs(PAIRS, seed=3))


@pytest.fixture
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


def load_model():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")


def load_pair():
    """A policy, and a reference that differs from it, so that no reward is zero."""
    policy, reference = load_model(), load_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy, reference


def options(kind, tmp_path, **changes):
    from trl import DPOConfig

    shared = {
        "output_dir": str(tmp_path / kind.__name__),
        "per_device_train_batch_size": 4,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "max_length": None,
        "report_to": "none",
        "seed": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "num_train_epochs": 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (kind if kind is MDPOConfig else DPOConfig)(**{**shared, **changes})


@pytest.mark.parametrize(
    ("objective", "loss_type", "beta", "label_smoothing"),
    [
        ("dpo", "sigmoid", 0.1, 0.0),
        (ZERO_WEIGHTS, "sigmoid", 0.3, 0.0),
        ("dpo", "ipo", 0.2, 0.0),
        ("dpo", "robust", 0.1, 0.1),
        *(("dpo", name, 0.1, 0.01 if name == "exo_pair" else 0.0) for name in PAIRWISE if name not in PLAIN),
    ],
)
def test_losses_and_gradients_equal_those_of_trl(
    tmp_path, dataset, processor, objective, loss_type, beta, label_smoothing
):
    from trl import DPOConfig, DPOTrainer

    # TRL patches the forward of models it is given, so each side gets its own.
    (their_policy, their_reference), (our_policy, our_reference) = load_pair(), load_pair()
    theirs = DPOTrainer(
        their_policy,
        ref_model=their_reference,
        args=options(DPOConfig, tmp_path, loss_type=[loss_type], beta=beta, label_smoothing=label_smoothing),
        train_dataset=dataset,
        processing_class=processor,
    )
    ours = MDPOTrainer(
        our_policy,
        ref_model=our_reference,
        args=options(
            MDPOConfig,
            tmp_path,
            loss_type=[loss_type],
            beta=beta,
            label_smoothing=label_smoothing,
            objective=objective,
            freeze_projector=False,
            freeze_vision_tower=False,
        ),
        train_dataset=dataset,
        processing_class=processor,
    )
    their_loss = theirs.compute_loss(theirs.model.train(), theirs.data_collator(list(dataset)))
    our_loss = ours.compute_loss(ours.model.train(), ours.data_collator([ours.train_dataset[i] for i in range(PAIRS)]))
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-6)

    their_loss.backward()
    our_loss.backward()
    their_gradients = {name: p.grad for name, p in theirs.model.named_parameters() if p.grad is not None}
    our_gradients = {name: p.grad for name, p in ours.model.named_parameters() if p.grad is not None}
    assert our_gradients.keys() == their_gradients.keys()
    # Biases of keys have no gradient but rounding: the scale of comparison is the largest gradient of the model.
    scale = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-6 * scale, msg=name)

    their_metrics = {name: values[-1] for name, values in theirs._metrics["train"].items()}
    our_metrics = ours._metrics["train"].flush(ours.accelerator)
    shared = their_metrics.keys() & our_metrics.keys()
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"} <= shared
    assert {"logps/chosen", "logps/rejected"} <= shared
    for name in shared:
        assert our_metrics[name] == pytest.approx(their_metrics[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("with_adapter", [False, True], ids=["full", "lora"])
def test_a_dpo_script_trains_alike_after_changing_two_names(tmp_path, dataset, processor, with_adapter):
    """Constructor, data order, reference (frozen copy or adapter off), optimizer and logs: the same run."""
    from trl import DPOConfig, DPOTrainer

    histories = []
    for trainer_class, config_class in ((DPOTrainer, DPOConfig), (MDPOTrainer, MDPOConfig)):
        changes = {"learning_rate": 1e-2 if with_adapter else 3e-4}
        if config_class is MDPOConfig:
            changes |= {"objective": "dpo", "freeze_vision_tower": False, "freeze_projector": False}
        lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=r".*language_model.*\.(q_proj|v_proj)")
        trainer = trainer_class(
            model=load_model(),
            args=options(config_class, tmp_path, **changes),
            train_dataset=dataset,
            processing_class=processor,
            peft_config=lora if with_adapter else None,
        )
        trainer.train()
        histories.append([entry for entry in trainer.state.log_history if "loss" in entry])
    theirs, ours = histories
    assert len(ours) == len(theirs) == 3
    for our_entry, their_entry in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
            assert our_entry[name] == pytest.approx(their_entry[name], rel=2e-3, abs=1e-5), name
    assert ours[0]["loss"] != pytest.approx(ours[-1]["loss"], rel=1e-3), "nothing was learnt, nothing was compared"
