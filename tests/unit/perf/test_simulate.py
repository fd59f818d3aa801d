"""What is simulated is what a real step does, and the dry run's estimate is what is simulated."""

import json
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop

from perf import simulate
from perf.counting import GPUS, Autocast, Counts, StepCounter, run_backward
from perf.fake import DEVICE, FakeDevice
from perf.measure import Sizes, profile_step
from perf.record import RESULTS
from perf.rows import draw_lengths, make_rows
from perf.shapes import SIMULATED, TINY, shrink
from perf.sides import DPO, MDPO, MDPO_LIVE, ORIGINAL, TRL, Setting, build_sides
from perf.simulate import Simulation, find_largest
from perf.simulation_page import list_estimates, render_simulation

PAIRS = 3
aten = torch.ops.aten


def raw(formula):
    def count(*args, **kwargs):
        return formula(*args, **kwargs)

    count._get_raw = True
    return count


LEFT_OUT = {
    aten.addmm_: raw(addmm_flop),
    aten._scaled_dot_product_flash_attention_for_cpu: raw(sdpa_flop),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: raw(sdpa_backward_flop),
}
"""What PyTorch's counter leaves out: a product in place, and the CPU's kernels of attention, by formulas of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_simulated_step_is_a_real_one_on_the_cpu(checkpointing):
    """Operations exactly; memory but for what kernels of attention keep for themselves, which differ by device."""
    sides = (ORIGINAL, MDPO, MDPO_LIVE, DPO)
    rows = make_rows(TINY, draw_lengths(TINY.lengths, PAIRS, simulate.SEED), simulate.SEED)
    built = build_sides(TINY, rows, Setting(checkpointing=checkpointing), sides)
    simulation = Simulation(TINY, checkpointing, torch.float32)
    for name in sides:
        real = profile_step(built[name], Sizes.of(TINY))
        built[name].model.zero_grad()
        with FlopCounterMode(display=False, custom_mapping=LEFT_OUT) as flops:
            built[name].step()
        counted = simulation.count_whole(name, PAIRS)
        assert counted.flops == flops.get_total_flops() > 0, name
        assert counted.peak_bytes - counted.before_bytes == pytest.approx(real.peak_bytes, rel=0.05), name


def test_counts_are_those_of_pytorchs_own_counters():
    device = FakeDevice(waits=True)
    with device.running():
        layers = [torch.nn.Linear(64, 64, device=DEVICE) for _ in range(3)]
        model = torch.nn.Sequential(
            layers[0], torch.nn.GELU(), layers[1], torch.nn.LayerNorm(64, device=DEVICE), layers[2]
        )
        inputs = torch.empty(512, 64, device=DEVICE)

        def step():
            run_backward(model(inputs).sum())

        counter = StepCounter(DEVICE, [*model.parameters(), inputs])
        with counter:
            step()
        model.zero_grad()
        tracker, flops = MemTracker(), FlopCounterMode(display=False)
        tracker.track_external(model, inputs)
        with tracker, flops:
            step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert counter.peak == peak["Total"] > counter.live
    assert counter.flops == flops.get_total_flops() > 0
    model.zero_grad()
    assert counter.live == 4 * sum(p.numel() for p in model.parameters()) + inputs.nbytes


def test_the_least_time_is_the_longer_of_computing_and_traffic():
    device = FakeDevice(waits=True)
    with device.running():
        left, right = torch.empty(2, 2048, 2048, dtype=torch.bfloat16, device=DEVICE)
        for operation, expected in (
            (lambda: left @ right, lambda gpu: 2 * 2048**3 / gpu.half_flops),
            (lambda: left + right, lambda gpu: 3 * 2 * 2048**2 / gpu.bandwidth),
        ):
            with StepCounter(DEVICE, []) as counter:
                operation()
            assert counter.seconds == {gpu.name: pytest.approx(expected(gpu)) for gpu in GPUS}


def test_autocast_computes_in_the_precisions_of_cuda():
    device = FakeDevice(waits=True)
    with device.running(), Autocast() as autocast:
        weight = torch.empty(8, 8, device=DEVICE, requires_grad=True)
        states = torch.empty(4, 8, dtype=torch.bfloat16, device=DEVICE)
        with autocast.forward():
            product = torch.nn.functional.linear(states, weight)
            again = torch.nn.functional.linear(states, weight)
            assert product.dtype == torch.bfloat16
            casts = [made.grad_fn.next_functions[1][0].next_functions[0][0] for made in (product, again)]
            assert casts[0] is casts[1], "the cast was kept"
            assert torch.nn.functional.layer_norm(product, (8,)).dtype == torch.float32
            assert (product + 1).dtype == torch.bfloat16
        run_backward(product.float().sum())
    assert weight.grad.dtype == torch.float32


@pytest.mark.slow
def test_depths_extend_to_the_whole_model():
    shape = shrink(SIMULATED["llava"])
    deep = Simulation(replace(shape, text={**shape.text, "num_hidden_layers": 9}), False)
    whole, extended = deep.count_whole(MDPO, 2), deep.count(MDPO, 2)
    assert extended.flops == whole.flops
    assert extended.traffic_bytes == whole.traffic_bytes
    assert extended.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)


@pytest.mark.slow
def test_a_tower_with_windows_extends_to_the_whole_one(monkeypatch):
    """Where checkpointing lets the original algorithm differentiate it, layer by layer."""
    monkeypatch.setattr("perf.simulate.DEPTHS", (2, 3))  # whose layers are all alike
    shape = shrink(SIMULATED["qwen"])
    vision = {**shape.vision, "depth": 5, "fullatt_block_indexes": [1, 4]}
    deep = Simulation(replace(shape, text={**shape.text, "num_hidden_layers": 4}, vision=vision), True)
    whole, extended = deep.count_whole(ORIGINAL, 1), deep.count(ORIGINAL, 1)
    assert extended.flops == whole.flops
    assert extended.before_bytes == whole.before_bytes
    assert extended.traffic_bytes == whole.traffic_bytes
    assert extended.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)
    assert extended.seconds == pytest.approx(whole.seconds)


@pytest.mark.parametrize(
    ("side", "checkpointing"), [(MDPO_LIVE, False), pytest.param(TRL, True, marks=pytest.mark.slow)]
)
def test_layers_that_are_counted_by_their_likes_come_to_the_same(monkeypatch, side, checkpointing):
    """Of a tower with two kinds of layers, and of a text decoder that a reference is scored by."""
    shape = shrink(SIMULATED["qwen"])
    vision = {**shape.vision, "depth": 6, "fullatt_block_indexes": [2, 5]}
    simulation = Simulation(replace(shape, vision=vision), checkpointing)
    ran, attend = [], StepCounter.__torch_dispatch__

    def listen(self, func, *args, **kwargs):
        ran.append(func)
        return attend(self, func, *args, **kwargs)

    monkeypatch.setattr(StepCounter, "__torch_dispatch__", listen)
    found, operations = simulation.count_whole(side, 1), len(ran)
    monkeypatch.setattr("perf.counting._describe_call", lambda *_: None)
    expected = simulation.count_whole(side, 1)
    assert operations < len(ran) - operations
    assert replace(found, seconds={}) == replace(expected, seconds={})
    assert found.seconds == pytest.approx(expected.seconds)


@pytest.mark.parametrize(("room", "fits", "simulated"), [(1000, 0, 2), (1250, 2, 3), (1419, 4, 3), (9000, 79, 2)])
def test_the_largest_batch_is_the_last_that_fits(room, fits, simulated):
    def count(pairs):
        return Counts(0, 0, 1000, 1000 + 100 * pairs + 5 * (pairs > 1), {})

    found = {1: count(1), 4: count(4)}
    largest = find_largest(count, found, room)
    assert largest == pytest.approx(fits, abs=1)
    if largest <= simulate.MOST:
        assert count(largest).peak_bytes <= room or largest == 0
        assert count(largest + 1).peak_bytes > room
    assert len(found) <= simulated + 1


@pytest.mark.slow
@pytest.mark.rest
def test_every_model_is_simulated_in_miniature_and_told(tmp_path):
    shapes = {name: shrink(shape) for name, shape in SIMULATED.items()}
    shapes = {name: replace(shape, text={**shape.text, "num_hidden_layers": 1}) for name, shape in shapes.items()}
    first, *others = shapes
    one = {first: shapes[first]}
    began = json.loads(json.dumps(simulate.run(one, [1, 2], [ORIGINAL, MDPO], tmp_path, largest=True, tiny=True)))
    (path,) = tmp_path.glob("simulation-*.json")
    assert json.loads(path.read_text()) == began
    result = json.loads(json.dumps(simulate.run(shapes, [1], [ORIGINAL, MDPO], tmp_path, largest=False, tiny=True)))
    assert result["cases"][:4] == began["cases"], "what is there is not simulated again"
    assert [
        (case["model"], case["checkpointing"], case["side"], case.get("failed")) for case in result["cases"][4:]
    ] == [
        (name, checkpointing, side, None)
        for name, checkpointing, side in product(others, (False, True), (ORIGINAL, MDPO))
    ]
    page = render_simulation([result | {"versions": {**result["versions"], "trl": "1"}}])
    assert "Simulated, not measured" in page
    flops = [result["cases"][n]["batches"]["1"]["flops"] for n in (0, 1)]
    assert f" | {flops[0] / flops[1]:.2f} | " in page


def test_nothing_simulated_is_said():
    assert "Nothing has been simulated" in render_simulation([])


def test_the_dry_runs_estimate_is_the_simulated_memory_within_a_tenth():
    (path,) = RESULTS.glob("simulation-*.json")
    ratios = list_estimates(json.loads(path.read_text()))
    assert ratios
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios), ratios


def test_a_case_that_cannot_run_is_a_finding(monkeypatch):
    simulation = SimpleNamespace(checkpointing=False, estimate=lambda pairs: {"optimizer": 1})

    def refuse(side, pairs):
        raise ValueError("no such kernel\nmore")

    simulation.count = refuse
    case = simulate._simulate_case("llava", simulation, MDPO, [1], largest=False)
    assert case["failed"] == "ValueError: no such kernel"
