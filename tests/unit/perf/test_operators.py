"""Where a step's CPU seconds go is counted by kind of operator and told, beside an earlier version's."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from perf import operators, sides
from perf.measure import Sizes
from perf.operators import OperatorClock, Peaks
from perf.operators_page import render_operators
from perf.record import ROOT

SIZES = Sizes(rank=3, vocabulary=11, vision_widths=frozenset({20}), vision_heads=(2, 10))


def test_costs_by_hand():
    hidden = torch.ones(4, 8, requires_grad=True)
    query = torch.ones(1, 2, 5, 4)
    with OperatorClock(SIZES, Peaks(flops=1e9, bandwidth=1e6)) as clock:
        logits = hidden @ torch.ones(8, 11)
        logits.logsumexp(1).sum().backward()
        torch.ones(4, 8) @ torch.ones(8, 3)
        torch.cat([torch.ones(6), torch.ones(6)])
        F.scaled_dot_product_attention(query, query, query)
    costs = clock.costs
    assert costs["products"].flops == 2 * (2 * 4 * 8 * 11)  # forward, and the gradient of the hidden states
    assert costs["LoRA's products"].flops == 2 * 4 * 8 * 3
    assert costs["attention"].flops == 2 * 2 * 2 * 5 * 5 * 4
    assert costs["softmax of the head"].calls >= 1
    copied = costs["copies"]
    assert (copied.calls, copied.bytes) == (1, 4 * (12 + 12))
    assert copied.least == pytest.approx(4 * 24 / 1e6)
    assert all(cost.seconds >= 0 for cost in costs.values())


@pytest.mark.slow
@pytest.mark.rest
def test_the_measurement_runs_in_miniature_and_is_told(tmp_path, monkeypatch):
    wanted = {"body": (sides.ORIGINAL, sides.MDPO, sides.MDPO_PASS), "brief": (sides.MDPO,)}
    monkeypatch.setattr(operators, "WANTED", wanted)
    compare, found = operators.compare_shape, []  # in miniature the two shapes are one

    def compare_once(*args, **options):
        return copy.deepcopy((found or found.append(compare(*args, **options)) or found)[0])

    monkeypatch.setattr(operators, "compare_shape", compare_once)
    command = ["operators", "--tiny", "--repetitions", "2", "--before", str(ROOT), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    operators.main()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["miniature"]
    body = result["sides"]["body"]
    for name, each in ((sides.ORIGINAL, [6.0, 8.0]), (sides.MDPO, [3.0, 3.0]), (sides.MDPO_PASS, [1.5, 1.5])):
        body[name]["each"] = each
        for kind, cost in body[name]["costs"].items():
            cost.update(flops=6e9 * (kind == "products"), seconds=2.0, bytes=8e9, least=0.25)
    turns = result["turns"]["body"]["sides"]
    assert len(turns[sides.DPO]["before"]) == len(turns[sides.DPO]["after"]) == 2
    turns[sides.DPO] = {"before": [4.0, 4.0, 5.0], "after": [3.0, 2.0, 4.0]}
    result["peaks"] = {"flops": 4e9, "bandwidth": 1e9}
    page = render_operators([result])
    assert "| body | A / C, mDPO, warm | 1.00 | 2.33 |" in page  # 2.00 and 2.67
    assert "| body | A / C, mDPO, amortised | 0.75 | 2.00 |" in page
    assert "| body | C, mDPO, warm | 3.00 | 6 | 2 | 50% | 1.50 | 50% |" in page
    assert "| body | C, mDPO, warm | 2.00 (3 GFLOP/s) | 2.00 (0 GFLOP/s) | 2.00 (0 GFLOP/s) | 2.00 (4 GB/s) |" in page
    assert "| body | C, DPO, warm | 4.00 | 3.00 | 0.75 |" in page
    assert "Nothing has been measured" in render_operators([])
