"""LoRA whose sum lies inside the product: equal to PEFT's, and left to PEFT where it is more than one product."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn

from mmdpo.models.adapters import SummingLinear, sum_in_products


def adapt(dtype=torch.float64, bias=True, **options):
    """A linear layer of 5 inputs and 7 outputs with an adapter that is away from its start, as PEFT has it."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(5, 7, bias=bias, dtype=dtype))
    settings = LoraConfig(target_modules=["0"], r=3, lora_alpha=12, **options)
    model = get_peft_model(base, settings, autocast_adapter_dtype=False).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def run(model, x):
    """Output, and the gradients of a weighted sum by input and adapter."""
    torch.manual_seed(2)
    x = x.clone().requires_grad_()
    output = model(x)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    weights = torch.linspace(-1, 2, output.numel()).view_as(output)
    return output, *torch.autograd.grad((weights * output).sum(), [x, *trained])


def both(model):
    ours = copy.deepcopy(model)
    sum_in_products(ours)
    assert type(ours.base_model.model[0]) is SummingLinear
    assert type(model.base_model.model[0]) is lora.Linear
    return ours, model


def product_count(model, x):
    with torch.profiler.profile() as profiler:
        model(x)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::addmm_")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_output_and_gradients_are_those_of_peft(bias, shape):
    ours, theirs = both(adapt(bias=bias))
    x = torch.randn(shape, dtype=torch.float64)
    for one, other in zip(run(ours, x), run(theirs, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert product_count(ours, x) == 1


def test_value_by_hand():
    ours, _ = both(adapt())
    layer, x = ours.base_model.model[0], torch.randn(4, 5, dtype=torch.float64)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 12 / 3 * x @ down.T @ up.T
    torch.testing.assert_close(ours(x), expected)


def test_dropout_and_scale_of_rslora():
    ours, theirs = both(adapt(lora_dropout=0.5, use_rslora=True))
    x = torch.ones(6, 5, dtype=torch.float64)
    for one, other in zip(run(ours.train(), x), run(theirs.train(), x), strict=True):
        torch.testing.assert_close(one, other)


def leave(model):
    return model


def disable(model):
    model.base_model.disable_adapter_layers()
    return model


def merge(model):
    model.merge_adapter()
    return model


def add_second(model):
    model.add_adapter("second", LoraConfig(target_modules=["0"], r=2, init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    return model.to(torch.float64)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (dict(use_dora=True), leave),
        (dict(lora_bias=True), leave),
        ({}, disable),
        ({}, merge),
        ({}, add_second),
    ],
    ids=["dora", "bias", "disabled", "merged", "two"],
)
def test_what_is_more_than_one_product_is_left_to_peft(options, change):
    ours, theirs = both(change(adapt(**options)))
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert product_count(ours, x) == 0


def test_who_moves_weights_about_is_told_of_every_layer():
    ours, theirs = both(adapt())
    called = []
    ours.base_model.model[0].lora_B["default"].register_forward_pre_hook(lambda *_: called.append(True))
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert called


def test_adapters_of_another_precision_without_autocast_are_left_to_peft():
    model = adapt(torch.bfloat16)
    for name, module in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            module.float()
    ours, theirs = both(model)
    x = torch.randn(4, 5, dtype=torch.bfloat16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_under_autocast_it_is_no_further_from_the_truth_than_peft():
    model = adapt(torch.float32)
    ours, theirs = both(model)
    x = torch.randn(500, 5).bfloat16()
    truth = copy.deepcopy(model).double()(x.double())
    errors = []
    for each in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            output = each(x)
        assert output.dtype == torch.bfloat16
        errors.append((output.double() - truth).square().mean().sqrt().item())
    assert errors[0] <= 1.02 * errors[1]
    assert errors[0] < 0.02 * truth.std().item()


def test_an_adapter_at_its_start_changes_nothing():
    ours, _ = both(adapt(torch.float32))
    layer = ours.base_model.model[0]
    nn.init.zeros_(layer.lora_B["default"].weight)
    x = torch.randn(4, 5)
    assert torch.equal(ours(x), layer.base_layer(x))
