"""Before anything of mmdpo is imported: no network, one thread per worker, and tensor shapes checked at run time.

Nothing is read from or written into the caches of whoever runs the tests.
"""

import atexit
import contextlib
import functools
import gc
import itertools
import os
import shutil
import ssl
import tempfile
import uuid
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

import forked
import shape_checks

gc.disable()  # until all is imported, of which nothing is garbage

os.environ["HF_HUB_OFFLINE"] = "1"
CACHES = Path(tempfile.mkdtemp(prefix="mmdpo-tests-"))
os.environ["HF_HOME"] = str(CACHES)
atexit.register(shutil.rmtree, CACHES, ignore_errors=True)

SOURCE = Path(__file__).parents[1] / "src"
"""Only what names a tensor's shape is instrumented: a call that is wrapped costs more than most functions do."""
jaxtyping.jaxtyped = shape_checks.only_where_shapes_are(jaxtyping.jaxtyped)  # what the hook puts on everything
jaxtyping.install_import_hook(
    [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCE.glob("mmdpo/**/*.py")
        if shape_checks.SHAPE.search(path.read_text(encoding="utf-8"))
    ],
    "shape_checks.check_shapes",
)

# Every client of an endpoint reads all certificates of the machine, which takes it longer than asking does.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# The first call of a function may import or compile something; how long it takes says nothing about it.
settings.register_profile("mmdpo", deadline=None)
settings.load_profile("mmdpo")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # workers, and the processes that tests start, would fight for the cores
    import torch

    torch.set_num_threads(1)


LONG = ("integration", "unit/perf", "unit/pairs", "equivalence")
"""Files and folders of the longest tests, which start first: a worker that came to one last would leave others idle."""


@pytest.hookimpl(trylast=True)  # after tests were left out by their marks
def pytest_collection_modifyitems(items):
    items[:] = deal(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def deal(items, workers):
    """Returns tests in the order in which as many workers take equal pieces of them: each begins with long ones.

    What is alike stays in its order, and a module in one piece but where a worker's part ends.
    """
    tests = Path(__file__).parent
    places = [tests / name for name in LONG]

    def find_turn(path):
        return next((n for n, place in enumerate(places) if path.is_relative_to(place)), len(places))

    modules = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    long = sorted((path for path in modules if find_turn(path) < len(places)), key=find_turn)
    parts = [[item for path in long[worker::workers] for item in modules[path]] for worker in range(workers)]
    rest = iter([item for path, of in modules.items() if path not in long for item in of])
    dealt, ends = [], [len(items) * (worker + 1) // workers for worker in range(workers)]  # as xdist deals them out
    for part, end in zip(parts, ends, strict=True):
        dealt += part
        dealt += itertools.islice(rest, max(0, end - len(dealt)))
    return [*dealt, *rest]


def pytest_collection_finish():
    """Leaves what is imported out of every later search for garbage: each training makes one, half of its time."""
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def empty_reference_cache():
    """Scores references anew inside: what another run has scored beside other rows may differ in its last digit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(CACHES / uuid.uuid4().hex))  # for processes that a test starts
        patch.setattr("huggingface_hub.constants.HF_HOME", os.environ["HF_HOME"])
        yield


@pytest.fixture(autouse=True)
def own_reference_cache():
    """Gives every test an empty cache of references, so that none depends on what another has scored."""
    with empty_reference_cache():
        yield


@pytest.fixture(scope="module")
def one_panel_on_a_card():
    """Draws one panel of the curves beside a model card: drawing all takes longer than a training of few steps."""
    from mmdpo.checkpoints import card

    draw = card.draw_panels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "draw_panels", lambda panels, path: draw(panels[:1], path))
        patch.setenv(forked.ONE_PANEL, "yes")  # for processes that a test forks
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Gives one to each fixture that several tests share, too: it is made before the cache of any of them."""
    with contextlib.nullcontext() if fixturedef.scope == "function" else empty_reference_cache():
        return (yield)
