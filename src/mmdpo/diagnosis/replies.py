"""What a model replied to the questions of a probe, on disk as it comes: a probe that was killed goes on from there.

The file has a head that says which model was asked, how and what; then a line for each reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xxhash import xxh3_128

from mmdpo.files import to_json
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.generation.transformers import TransformersAnswerer
from mmdpo.line_file import LineFile, read_lines
from mmdpo.progress import count
from mmdpo.training.durable.resume import RunFolderError

REPLIES = "replies.jsonl"

Value = TypeVar("Value")


class ReplyLog:
    """Replies of one model, by what was asked and the question's id."""

    def __init__(
        self, folder: Path, answerer: TransformersAnswerer, settings: GenerationSettings, asked: object, *, shown: bool
    ) -> None:
        """Reads what an interrupted probe left in the folder; `asked` is all that the questions depend on, and `shown`
        is whether bars count them.

        Raises RunFolderError for replies of another model, or to other questions.
        """
        self._shown, self._known = shown, dict[str, dict[str, Any]]()
        path = folder / REPLIES
        head = {**answerer.describe(), **settings.describe(), "asked": xxh3_128(repr(asked).encode()).hexdigest()}
        head = json.loads(to_json(head))  # as it comes back from the file
        self._lines = LineFile(path)
        if path.is_file():
            first, *rows = list(read_lines(path)) or [head]
            if first != head:
                others = [name for name in head if first.get(name) != head[name]]
                raise RunFolderError(
                    f"{path} holds replies with another {', '.join(others)}: choose another --out, or remove it"
                )
            for row in rows:
                self._known.setdefault(row["what"], {})[row["id"]] = row["value"]
        if not path.is_file() or not path.stat().st_size:  # or killed as it was made
            self._lines.append(head)

    def complete(
        self,
        what: str,
        questions: Sequence[Question],
        ask: Callable[[Sequence[Question]], Iterable[tuple[str, Value]]],
    ) -> dict[str, Value]:
        """Returns the replies to questions by their ids; those that are not known are asked for, and kept."""
        known = self._known.setdefault(what, {})
        waiting = [question for question in questions if question.id not in known]
        if waiting:
            for name, value in count(ask(waiting), what, "question", total=len(waiting), shown=self._shown):
                self._lines.append({"what": what, "id": name, "value": value})
                known[name] = value
        return {question.id: known[question.id] for question in questions}

    def close(self) -> None:
        """Ends writing."""
        self._lines.close()
