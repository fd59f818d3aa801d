"""Models of the app: one thread loads them and asks them; where memory is short, the least recently used leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Queue
from typing import Any

from mmdpo.files import printable

GIGABYTE = 2**30
SPARE = 1.15
"""A model is loaded where so many times its weights are free: scoring needs room, too."""


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


class Models:
    """The models that may be asked for by name, such as `train` and `eval` take; questions may come from any thread.

    They are answered by one thread, one after another, since no model computes while another one is loaded:
    transformers sets torch's default precision, which is all threads', while it loads.
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
        self.names, self.most = tuple(dict.fromkeys(names)), most
        self._load, self._measure = load or load_model_of, measure or measure_model
        self._find_free = find_free or free_bytes
        self._loaded: dict[str, LoadedModel] = {}
        """The least recently used first."""
        self._failed: set[str] = set()
        self._doing: tuple[str, str, float] = ("", "", 0.0)
        """What the thread does with which model, and since when."""
        self._questions: Queue[tuple[str, Callable[[LoadedModel], Any], Future[Any]]] = Queue()
        # A daemon, so that who ends the app need not wait for it.
        threading.Thread(target=self._answer, daemon=True, name="models").start()

    def ask(self, name: str, work: Callable[[LoadedModel], Any] = lambda loaded: None) -> Future[Any]:
        """Has a model, loaded where it was not, given to `work`, and returns what will hold what that returns.

        Raises ValueError for a name that is not given. The future raises MemoryError for a model that does not fit, and
        what loading and working raise; a model that could not be loaded is tried again when it is next asked for.
        """
        if name not in self.names:
            raise ValueError(f"{printable(name)} was not given to the app: name it with --models")
        answer: Future[Any] = Future()
        self._questions.put((name, work, answer))
        return answer

    def describe(self, name: str) -> str:
        """Returns in a few words where a model is, or what it waits for."""
        shown, (doing, busy, since) = printable(name), self._doing
        if doing and busy == name:
            return f"{shown} {doing}: {time.monotonic() - since:.0f} s"
        if doing:
            return f"{shown} waits: {printable(busy)} {doing}"
        if name in self._loaded:
            return f"{shown} is in memory"
        return f"{shown} could not be loaded" if name in self._failed else f"{shown} is not loaded yet"

    @property
    def in_memory(self) -> list[str]:
        """The names of those that are loaded, the least recently used first."""
        return list(self._loaded)

    def _answer(self) -> None:
        while True:
            name, work, answer = self._questions.get()
            try:
                answer.set_result(self._work(name, work))
            except BaseException as error:  # told to who has asked
                answer.set_exception(error)
            finally:
                self._doing = "", "", 0.0
                del work, answer  # which may hold a model that is to leave

    def _work(self, name: str, work: Callable[[LoadedModel], Any]) -> Any:
        self._doing = "is being loaded", name, time.monotonic()
        loaded = self._loaded.pop(name) if name in self._loaded else self._make(name)
        self._loaded[name] = loaded
        self._doing = "reads the answers", name, time.monotonic()
        return work(loaded)

    def _make(self, name: str) -> LoadedModel:
        """Makes room, then loads."""
        self._failed.add(name)
        needed = int(SPARE * self._measure(name))
        while self.most is not None and len(self._loaded) >= self.most:
            self._drop_one()
        while needed > (free := self._find_free()):
            if not self._loaded:
                raise MemoryError(
                    f"{printable(name)} needs {needed / GIGABYTE:.1f} GB and {free / GIGABYTE:.1f} GB are free: end "
                    "other programs, or take a smaller model"
                )
            self._drop_one()
        made = self._load(name)
        self._failed.discard(name)
        return made

    def _drop_one(self) -> None:
        from accelerate.utils import release_memory

        del self._loaded[next(iter(self._loaded))]
        release_memory()


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
    # Where a device shares the memory of the CPU, that of either is listed alone.
    own: tuple[int | str, ...] = ("cpu", 0, "mps") if device.type == "cpu" else (device.index or 0, "mps", "cpu")
    return int(next(free[place] for place in own if place in free))
