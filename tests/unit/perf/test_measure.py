"""The counters count what they say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from perf.measure import Sizes, profile_step
from perf.record import summarise
from perf.shapes import TINY
from perf.sides import Side

SIZES = Sizes(rank=3, vocabulary=50, vision_widths=frozenset({24}), vision_heads=(2, 12))


def run_profiled(model, step):
    return profile_step(Side("side", model, step), SIZES)


def test_operations_are_those_that_torch_counts():
    model = nn.ModuleDict({"patches": nn.Conv2d(3, 24, 4, 4), "down": nn.Linear(16, 3), "head": nn.Linear(3, 50)})
    model["body"] = nn.Linear(16, 16, bias=False)
    image, tokens = torch.randn(2, 3, 8, 8), torch.randn(5, 16)

    def step():
        with torch.no_grad():
            model["patches"](image)
        loss = model["head"](model["down"](model["body"](tokens))).sum()
        loss.backward()
        return loss.detach()

    with FlopCounterMode(display=False) as counter:
        step()
    flops = run_profiled(model, step).flops
    assert sum(flops.values()) == counter.get_total_flops() > 0
    assert flops["vision tower"] == 2 * 2 * 4 * 24 * 3 * 4 * 4
    assert flops["linear layers"] == 2 * (2 * 5 * 16 * 16), "forward, and the gradient of the weight"
    assert flops["LoRA"] == sum(flops.values()) - flops["vision tower"] - flops["linear layers"]


@pytest.mark.parametrize(("heads", "width", "part"), [(4, 8, "attention"), (2, 12, "vision tower")])
def test_attention_counts_forward_and_backward(heads, width, part):
    query = torch.randn(1, heads, 6, width, requires_grad=True)
    key, value = torch.randn(2, 1, heads, 10, width, requires_grad=True)

    def step():
        loss = F.scaled_dot_product_attention(query, key, value).sum()
        loss.backward()
        return loss.detach()

    pairs = 2 * heads * 6 * 10
    assert run_profiled(nn.Identity(), step).flops == {part: pairs * 2 * width + pairs * 5 * width}


def test_memory_is_the_most_that_was_alive_at_once():
    kept = torch.zeros(1_000_000)

    def step():
        first = kept + 1  # 4 MB
        second = first + 1  # 8 MB
        del first
        third = second + 1  # 8 MB again
        return third.sum()

    assert run_profiled(nn.Identity(), step).peak_bytes == pytest.approx(8_000_000, rel=1e-3)


def test_sizes_of_a_shape_tell_its_parts_apart():
    sizes = Sizes.of(TINY)
    assert sizes.part_of("aten::mm", [[20, 64], [64, 96]]) == "linear layers"
    assert sizes.part_of("aten::addmm", [[80], [20, 48], [48, 80]]) == "vision tower"
    assert sizes.part_of("aten::mm", [[20, 64], [64, TINY.lora_rank]]) == "LoRA"
    assert sizes.part_of("aten::mm", [[20, 64], [64, 128]]) == "output head"
    assert sizes.part_of("aten::mul", [[20, 128]]) == "everything else"


def test_summary_of_one_and_of_several():
    assert summarise([2.0])["median"] == summarise([2.0])["upper_quartile"] == 2.0
    several = summarise([5.0, 1.0, 2.0, 3.0, 4.0])
    assert [several[name] for name in ("min", "lower_quartile", "median", "upper_quartile", "max")] == [1, 2, 3, 4, 5]
