"""Models of the app: loaded once, in the background, and never more than fit."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from mmdpo.app.models import LoadedModel, Models, free_bytes, measure_model
from mmdpo.world import SMALL


class Machine:
    """Memory in which models of 10 bytes are put, and all that happened there."""

    def __init__(self, size=1000):
        self.size, self.held, self.loads, self.most_held = size, set(), [], 0
        self.gate = threading.Event()
        self.gate.set()

    def load(self, name):
        self.gate.wait(10)
        if name == "broken":
            raise OSError("there is no such model")
        self.loads.append(name)
        model = _Weights(self, name)
        self.most_held = max(self.most_held, len(self.held))
        return LoadedModel(name, model, None)

    def models(self, *names, **options):
        return Models(
            names, load=self.load, measure=lambda name: 10, find_free=lambda: self.size - 10 * len(self.held), **options
        )


class _Weights:
    def __init__(self, machine, name):
        self.machine, self.name = machine, name
        machine.held.add(name)

    def __del__(self):
        self.machine.held.discard(self.name)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.01)


def use(models, name):
    return models.ask(name, lambda loaded: loaded.name).result()


def test_a_model_is_loaded_once_however_many_ask_for_it():
    machine = Machine()
    models = machine.models("a", "b")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: use(models, name), "abababab")) == list("abababab")
    assert sorted(machine.loads) == ["a", "b"]


def test_loading_goes_on_in_the_background_and_who_waits_is_told():
    machine = Machine()
    machine.gate.clear()
    models = machine.models("a", "b")
    assert models.describe("a") == "a is not loaded yet"
    answer = models.ask("a", lambda loaded: models.describe("a"))
    wait_until(lambda: models.describe("a").startswith("a is being loaded: "))
    assert models.describe("b") == "b waits: a is being loaded"
    machine.gate.set()
    assert answer.result() == "a reads the answers: 0 s"
    wait_until(lambda: models.describe("a") == "a is in memory")


def test_the_least_recently_used_leaves_where_only_so_many_are_allowed():
    machine = Machine()
    models = machine.models("a", "b", "c", most=2)
    for name in "abac":
        use(models, name)
    assert models.in_memory == ["a", "c"]
    assert machine.held == {"a", "c"}, "what has left is out of memory"
    use(models, "b")
    assert models.in_memory == ["c", "b"]
    assert machine.most_held == 2


def test_as_many_stay_as_fit_into_what_is_free():
    machine = Machine(size=30)  # three would fit by their weights alone
    models = machine.models("a", "b", "c")
    for name in "abcb":
        use(models, name)
    assert models.in_memory == ["c", "b"]
    assert machine.most_held == 2


def test_one_that_fits_nowhere_is_said_not_to():
    machine = Machine(size=10)
    with pytest.raises(MemoryError, match=r"a needs 0\.0 GB and 0\.0 GB are free: end other programs"):
        use(machine.models("a"), "a")


def test_one_in_use_does_not_leave_before_it_is_let_go():
    machine, let_go = Machine(), threading.Event()
    models = machine.models("a", "b", most=1)
    using = models.ask("a", lambda loaded: let_go.wait(10) and loaded.model.name in machine.held)
    waiting = models.ask("b", lambda loaded: loaded.name)
    wait_until(lambda: machine.loads)
    time.sleep(0.1)
    assert machine.loads == ["a"]
    let_go.set()
    assert using.result() is True
    assert waiting.result() == "b"
    assert models.in_memory == ["b"]
    assert machine.most_held == 1


def test_one_that_could_not_be_loaded_says_why_and_is_tried_again():
    machine = Machine()
    models = machine.models("broken", "a")
    for _ in range(2):
        with pytest.raises(OSError, match="no such model"):
            use(models, "broken")
    assert models.describe("broken") == "broken could not be loaded"
    assert models.in_memory == []
    assert use(models, "a") == "a"


def test_none_is_loaded_that_was_not_given():
    models = Machine().models("a")
    with pytest.raises(ValueError, match=r"/etc was not given to the app: name it with --models"):
        use(models, "/etc")


def test_nothing_is_computed_while_a_model_is_loaded_or_by_two_at_once():
    machine, running, seen = Machine(), [0], []

    def load(name):
        return compute(name) or machine.load(name)

    def compute(name):
        running[0] += 1
        seen.append(running[0])
        time.sleep(0.02)
        running[0] -= 1

    models = Models(list("abcd"), most=2, load=load, measure=lambda name: 10, find_free=lambda: 1000)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: models.ask(name, lambda loaded: compute(name)).result(), "abcdbacdab"))
    assert set(seen) == {1}


def test_the_worlds_model_is_opened_as_evaluation_opens_it_and_its_weights_are_counted():
    loaded = Models([SMALL.name]).ask(SMALL.name, lambda loaded: loaded).result()
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert not loaded.model.training
    assert not loaded.has_adapter
    assert loaded.processor.tokenizer is not None
    assert size <= measure_model(SMALL.name) < 1.1 * size
    assert free_bytes() > size


@pytest.mark.parametrize(
    ("device", "listed", "free"),
    [
        ("cpu", {"cpu": 7}, 7),
        ("cpu", {0: 5, "cpu": 7}, 7),
        ("cuda:1", {0: 4, 1: 5, "cpu": 7}, 5),
        ("cuda", {0: 5, "cpu": 7}, 5),
        ("cuda", {0: 5}, 5),  # a GPU that shares the memory of the CPU
        ("cpu", {0: 5}, 5),
        ("mps", {"mps": 6}, 6),
        ("cpu", {"mps": 6}, 6),
    ],
)
def test_memory_is_found_wherever_it_is_listed(monkeypatch, device, listed, free):
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: listed)
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(device=torch.device(device)))
    assert free_bytes() == free
