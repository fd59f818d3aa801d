"""References that an engine cannot score are refused, with what to do instead."""

from types import SimpleNamespace

import pytest
import torch

from mmdpo.scoring.reference import AdapterOff, FrozenModel, StartOfPolicy
from mmdpo.training.distributed import check_engine


def accelerator(**plugins):
    return SimpleNamespace(state=SimpleNamespace(**plugins))


def reference(kind, *, partitioned=False):
    model = torch.nn.Linear(2, 2)
    if partitioned:
        model.weight.ds_id = 0  # DeepSpeed's mark
    scorer = SimpleNamespace(model=model)
    return kind(scorer) if kind is StartOfPolicy else kind(scorer, share_images=True)


ZERO3 = {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}


@pytest.mark.parametrize(
    ("plugins", "given", "times", "told"),
    [
        (ZERO3, reference(FrozenModel), {"is_live": True}, "a second model beside it cannot be scored"),
        (ZERO3, reference(StartOfPolicy, partitioned=True), {"is_cached": True}, "set zero3_init_flag: false"),
        (
            {"fsdp_plugin": SimpleNamespace(cpu_ram_efficient_loading=True)},
            reference(StartOfPolicy),
            {"is_cached": True},
            "with cpu_ram_efficient_loading the first process alone has the weights",
        ),
    ],
    ids=["zero3-second-model", "zero3-partitioned", "fsdp-empty-processes"],
)
def test_refused(plugins, given, times, told):
    with pytest.raises(ValueError, match=told):
        check_engine(accelerator(**plugins), given, **{"is_cached": False, "is_live": False, **times})


def test_let_through():
    check_engine(accelerator(), reference(FrozenModel), is_cached=True, is_live=True)
    check_engine(accelerator(**ZERO3), reference(AdapterOff, partitioned=True), is_cached=False, is_live=True)
    check_engine(accelerator(**ZERO3), reference(StartOfPolicy), is_cached=True, is_live=False)
    zero2 = accelerator(deepspeed_plugin=SimpleNamespace(zero_stage=2))
    check_engine(zero2, reference(FrozenModel), is_cached=True, is_live=True)
    fsdp = accelerator(fsdp_plugin=SimpleNamespace(cpu_ram_efficient_loading=True))
    check_engine(fsdp, reference(FrozenModel), is_cached=False, is_live=True)
