"""The answers of a run on disk: what is there already, what is added, and that both come from the same model.

Every process appends to a file of its own, the first one to answers.jsonl; when all are done the first makes one file
of them, in the order of the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.answers import Row, read_rows
from mmdpo.benchmarks.reading import EvaluationError, make_folder, to_json, write_whole
from mmdpo.benchmarks.records import Item
from mmdpo.benchmarks.run_folder import ANSWERS, check_folder
from mmdpo.evaluation.lines import LineFile, mend_last_line
from mmdpo.generation.records import GeneratedAnswer, Processes

_PART = "answers.part-{}.jsonl"
_INCIDENTAL = ("versions",)
"""What may differ between answers of one run."""


class AnswerLog:
    """The answers of one run to one benchmark."""

    def __init__(
        self,
        folder: Path,
        benchmark: str,
        items: Sequence[Item],
        generation: Mapping[str, Any],
        processes: Processes,
    ) -> None:
        """Reads what is there; all processes have to do so at once.

        `generation` is all that an answer depends on; it is written beside each. Raises EvaluationError, with file and
        line, for answers of another benchmark, another model or other settings.
        """
        self.folder, self.benchmark = folder, benchmark
        self._items = {item.id: item for item in items}
        self._generation: dict[str, Any] = json.loads(json.dumps(dict(generation)))
        self._processes = processes
        if processes.rank == 0:
            check_folder(folder, benchmark)
            make_folder(folder)
            for path in self._files():
                mend_last_line(path)
        processes.wait()
        self._rows = {row.values["id"]: dict(row.values) for path in self._files() for row in self._read(path)}
        processes.wait()
        name = ANSWERS if processes.rank == 0 else _PART.format(processes.rank)
        self._lines = LineFile(folder / name)

    @property
    def path(self) -> Path:
        """The file that holds the answers in the end."""
        return self.folder / ANSWERS

    @property
    def written(self) -> int:
        """How many answers this process has added."""
        return self._lines.written

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def open(self) -> None:
        """Makes sure that answers can be kept, before one is paid for; raises EvaluationError where they cannot."""
        self._lines.open()

    def append(self, answer: GeneratedAnswer) -> None:
        """Adds an answer; raises EvaluationError where the disk takes no more."""
        item = self._items[answer.id]
        row: dict[str, Any] = {"id": item.id, "benchmark": self.benchmark, "prompt": item.prompt, "image": item.image}
        row |= {"answer": answer.text, "generation": self._generation, "details": dict(answer.details)}
        self._lines.append(row)
        self._rows[item.id] = row

    def close(self) -> None:
        """Ends writing; the answers stay where they are, in whatever order."""
        self._lines.close()

    def merge(self) -> None:
        """Waits for all processes; the first makes one file of their answers, in the benchmark's order."""
        self.close()
        self._processes.wait()
        if self._processes.rank > 0:
            return
        for path in self._files():
            self._rows |= {row.values["id"]: dict(row.values) for row in self._read(path)}
        rows = [self._rows[item_id] for item_id in self._items if item_id in self._rows]
        if rows:
            write_whole(self.path, "".join(to_json(row) + "\n" for row in rows))
        for path in self._files():
            if path != self.path:
                path.unlink()

    def _files(self) -> list[Path]:
        main = [self.path] if self.path.exists() else []
        return main + sorted(self.folder.glob(_PART.format("*")))

    def _read(self, path: Path) -> Iterator[Row]:
        for row in read_rows(path):
            item = self._items.get(str(row.values.get("id")))
            if row.values.get("benchmark") != self.benchmark or item is None:
                raise EvaluationError(
                    f"{row.place}: not an answer that a model gave to an item of {self.benchmark}; choose another --out"
                )
            self._compare(row, {"prompt": item.prompt, "image": item.image, **self._generation})
            yield row

    def _compare(self, row: Row, now: Mapping[str, Any]) -> None:
        made = row.values.get("generation")
        kept = {name: row.values.get(name) for name in ("prompt", "image")} | (made if isinstance(made, dict) else {})
        names = [name for name in {**kept, **now} if name not in _INCIDENTAL]
        differing = [name for name in names if kept.get(name) != now.get(name)]
        if differing:
            shown = "; ".join(f"{name} was {_show(kept.get(name))} and is {_show(now.get(name))}" for name in differing)
            raise EvaluationError(
                f"{row.place}: this answer was made differently, and a result stands on answers of one kind: {shown}. "
                "Give the same settings, or choose another --out"
            )


def _show(value: Any) -> str:
    return to_json(value)
