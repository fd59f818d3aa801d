"""Models of the app: each is loaded once, in the background; where memory is short, the least recently used leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmdpo.files import printable

GIGABYTE = 2**30
SPARE = 1.15
"""A model is loaded where so many times its weights are free: scoring needs room, too."""
_LOOK_AGAIN = 0.25
"""Seconds between two words about a model that is waited for."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, in evaluation mode and without dropout, on the device where there is one."""

    name: str
    model: Any
    processor: Any

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter that can be switched off."""
        return hasattr(self.model, "disable_adapter")


@dataclass
class _Place:
    """What is known of one name."""

    loading: Future[LoadedModel]
    since: float = field(default_factory=time.monotonic)
    """When its loading was asked for."""
    used: float = field(default_factory=time.monotonic)
    users: int = 0
    """Those who use it, or wait for it: it does not leave."""


class Models:
    """The models that may be asked for by name, such as `train` and `eval` take.

    Calls come from any thread. A model is used inside `with models.use(name) as loaded:` by one thread at a time, and
    while none is loaded: transformers sets torch's default precision, which is all threads', while it loads. Who holds
    a model must not ask for another.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        most: int | None = None,
        load: Callable[[str], LoadedModel] | None = None,
        measure: Callable[[str], int] | None = None,
        find_free: Callable[[], int] | None = None,
    ) -> None:
        """Loads nothing yet.

        `most` is how many are in memory at a time; as many as fit unless given. `load`, `measure` (bytes that a model
        needs) and `find_free` (bytes that the device has free) are those of this module unless given.
        """
        self.names = tuple(dict.fromkeys(names))
        self.most = most
        self._load, self._measure, self._find_free = (
            load or load_model_of,
            measure or measure_model,
            find_free or free_bytes,
        )
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        """Of what is known of the names."""
        self._left = threading.Condition(self._lock)
        self._loading, self._computing = threading.Lock(), threading.Lock()

    def prepare(self, name: str) -> None:
        """Begins to load a model in the background, unless it is there; raises ValueError for a name not given."""
        with self._lock:
            self._find(name)

    def describe(self, name: str) -> str:
        """Returns in a few words where a model is."""
        with self._lock:
            place = self._places.get(name)
        if place is None:
            return f"{printable(name)} is not loaded yet"
        if not place.loading.done():
            return f"{printable(name)} is being loaded: {time.monotonic() - place.since:.0f} s"
        if place.loading.exception() is not None:
            return f"{printable(name)} could not be loaded"
        return f"{printable(name)} is in memory"

    @property
    def in_memory(self) -> list[str]:
        """The names of those that are loaded, the least recently used first."""
        with self._lock:
            return [name for name, _ in self._list_loaded()]

    @contextmanager
    def use(self, name: str, tell: Callable[[str], None] = lambda line: None) -> Iterator[LoadedModel]:
        """Gives a model to one thread, loaded where it was not; `tell` is told meanwhile what is waited for.

        Raises ValueError for a name that is not given, MemoryError for a model that does not fit, and what loading
        raises; a model that could not be loaded is tried again when it is next asked for.
        """
        with self._lock:
            place = self._find(name)
            place.users += 1
        try:
            while not wait([place.loading], _LOOK_AGAIN).done:
                tell(self.describe(name))
            loaded = place.loading.result()
            while not self._computing.acquire(timeout=_LOOK_AGAIN):
                tell("waiting for another question, or for a model that is being loaded")
            try:
                yield loaded
            finally:
                self._computing.release()
        finally:
            with self._lock:
                place.users -= 1
                place.used = time.monotonic()
                self._left.notify_all()

    def _find(self, name: str) -> _Place:
        """Returns the place of a name, whose loading is asked for where it is new or has failed. The lock is held."""
        if name not in self.names:
            raise ValueError(f"{printable(name)} was not given to the app: name it with --models")
        place = self._places.get(name)
        if place is None or (place.loading.done() and place.loading.exception() is not None):
            place = self._places[name] = _Place(Future())
            # A daemon, so that who ends the app need not wait for it.
            threading.Thread(target=self._run, args=(name, place.loading), name=f"loads {name}", daemon=True).start()
        return place

    def _run(self, name: str, loading: Future[LoadedModel]) -> None:
        try:
            with self._loading:
                loading.set_result(self._make(name))
        except BaseException as error:  # told to who asks for the model
            loading.set_exception(error)

    def _make(self, name: str) -> LoadedModel:
        """Makes room, then loads; one at a time. While it waits for room, models are used."""
        with self._computing:
            needed = int(SPARE * self._measure(name))
        while self.most is not None and len(self.in_memory) >= self.most:
            self._let_leave(must=True)
        while needed > (free := self._find_free()):
            if not self._let_leave(must=bool(self.in_memory)):
                raise MemoryError(
                    f"{printable(name)} needs {needed / GIGABYTE:.1f} GB and {free / GIGABYTE:.1f} GB are free: end "
                    "other programs, or take a smaller model"
                )
        with self._computing:
            return self._load(name)

    def _let_leave(self, *, must: bool) -> bool:
        """Drops the least recently used model that nobody uses; with `must` it waits until there is one."""
        with self._left:
            while True:
                idle = [name for name, place in self._list_loaded() if not place.users]
                if idle or not must:
                    break
                self._left.wait()
            for name in idle[:1]:
                del self._places[name]
        _release()
        return bool(idle)

    def _list_loaded(self) -> list[tuple[str, _Place]]:
        loaded = [
            (name, place)
            for name, place in self._places.items()
            if place.loading.done() and place.loading.exception() is None
        ]
        return sorted(loaded, key=lambda pair: pair[1].used)


def load_model_of(name: str) -> LoadedModel:
    """Loads a model and its processor as `mmdpo eval` opens them; raises what that raises."""
    from accelerate import PartialState

    from mmdpo.generation.checkpoint import Checkpoint
    from mmdpo.models.load import check_model, load_model, load_processor
    from mmdpo.models.trained import disable_dropout

    start = Checkpoint(name).start
    model = load_model(start)
    check_model(model)
    disable_dropout(model)
    return LoadedModel(name, model.eval().to(PartialState().device), load_processor(start))


def measure_model(name: str) -> int:
    """Returns the bytes of a model's weights in the precision in which it is loaded; loads none. Raises as loading."""
    from mmdpo.generation.checkpoint import Checkpoint
    from mmdpo.models.load import build_empty_model

    model = build_empty_model(Checkpoint(name).start)
    return sum(of.numel() * of.element_size() for of in (*model.parameters(), *model.buffers()))


def free_bytes() -> int:
    """Returns the memory that is free on the device that models are put on, in bytes."""
    from accelerate import PartialState
    from accelerate.utils import get_max_memory

    device, free = PartialState().device, get_max_memory()
    return int(free.get(device.index or 0, free["cpu"]) if device.type != "cpu" else free["cpu"])


def _release() -> None:
    from accelerate.utils import release_memory

    release_memory()
