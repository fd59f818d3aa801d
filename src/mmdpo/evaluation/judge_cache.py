"""Every raw reply of a judge on disk, one line each, appended as it arrives, so that none is ever asked for twice.

    {"id", "answer", "reply", "model", "requested_model", "attempt", "readable", "finish_reason", "usage", "time",
     "settings", "key"}

`key` is the SHA-256 of prompt, requested model and settings. `--judge_replies` reads the file too.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.answers import read_rows
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.evaluation.lines import LineFile, mend_last_line
from mmdpo.generation.endpoint import Reply
from mmdpo.judges import Request


@dataclass(frozen=True)
class CachedReply:
    """A reply that was kept."""

    text: str
    model: str
    """The model that the server said it was."""


class ReplyCache:
    """The replies of one file; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Opens the file; a last line that is cut off, by a crash or a full disk, is removed.

        Raises EvaluationError with file and line for a line that is no kept reply.
        """
        self.path = path
        self._file = LineFile(path)
        self._lock = threading.Lock()
        self._replies: dict[str, CachedReply] = {}
        if path.exists():
            mend_last_line(path)
            for row in read_rows(path):
                self._replies[_read_key(row.values, row.place)] = CachedReply(
                    row.values["reply"], str(row.values.get("model", ""))
                )

    def __len__(self) -> int:
        return len(self._replies)

    def open(self) -> None:
        """Makes sure that replies can be kept, before one is paid for; raises EvaluationError where they cannot."""
        self._file.open()

    def find(self, key: str) -> CachedReply | None:
        """Returns the reply of a key, None if there is none."""
        return self._replies.get(key)

    def keep(self, key: str, request: Request, reply: Reply, about: Mapping[str, Any]) -> None:
        """Writes a reply to disk, then remembers it; `about` is added to the line.

        Raises EvaluationError where the disk takes no more.
        """
        line = {
            "id": request.item_id,
            "answer": request.answer,
            "reply": reply.text,
            "model": reply.model,
            "attempt": request.attempt,
            "finish_reason": reply.finish_reason,
            "usage": dict(reply.usage),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": key,
        }
        with self._lock:
            self._file.append(line | dict(about))
            self._replies[key] = CachedReply(reply.text, reply.model)


def make_key(prompt: str, model: str, settings: Mapping[str, Any]) -> str:
    """Returns what a reply is kept under: all that it depends on."""
    content = json.dumps([prompt, model, dict(settings)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _read_key(values: Mapping[str, Any], place: str) -> str:
    if not isinstance(values.get("key"), str) or not isinstance(values.get("reply"), str):
        raise EvaluationError(
            f"{place}: no kept reply of a judge ('key' and 'reply' are needed); remove the line, or name another "
            "folder (--judge_cache). Replies from elsewhere are read by --judge_replies"
        )
    return str(values["key"])
