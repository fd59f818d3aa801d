"""A judge that keeps every reply, asks again for those that cannot be read, and gives up when it is down.

Replies are lines of a file, each appended as it arrives, so that none is ever asked for twice:

    {"id", "answer", "reply", "model", "requested_model", "attempt", "readable", "finish_reason", "usage", "time",
     "settings", "key"}

`key` is the SHA-256 of prompt, requested model and settings. `--judge_replies` reads the file too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmdpo.benchmarks.definitions import BenchmarkItem, Judge, Tools
from mmdpo.benchmarks.reading import EvaluationError, RecordedReplies, read_rows
from mmdpo.benchmarks.tasks import Benchmark
from mmdpo.evaluation.line_file import LineFile, mend_last_line
from mmdpo.files import digest_of
from mmdpo.generation.endpoint import Reply
from mmdpo.judges import Failure, JudgeOptions, Request, Source, make_source

FAILURES = 3
"""Requests that may fail, each after all its tries, before nothing more is asked."""
REMINDER = (
    "An earlier reply to this could not be read by the program that it was for. Keep exactly to the form that is asked "
    "for above."
)

REPLIES = "judge_replies.jsonl"


def check_judge(benchmark: Benchmark, options: JudgeOptions) -> None:
    """Raises ValueError for options of a judge that do not fit together or the benchmark: before hours of answers."""
    if not options.model and (options.url is not None or options.kind is not None):
        raise ValueError("--judge_url and --judge need the model's name too: --judge_model")
    if options.is_given and benchmark.judge_prompt is None:
        given = "--judge_model" if options.replies is None else "--judge_replies"
        raise ValueError(f"{given}: {benchmark.name} has no judge")
    if options.replies is not None and options.model:
        raise ValueError("--judge_replies stands instead of a model: leave --judge_model out")


def choose_judge(
    benchmark: Benchmark, data_dir: Path, tools: Tools, options: JudgeOptions, out: Path, *, allow_missing: bool
) -> Judge | None:
    """Returns the judge that the options name, None if they name none.

    `data_dir` holds the benchmark's data, `out` the replies unless the options say where. Raises what `KeepingJudge`
    and `RecordedReplies` raise.
    """
    if not options.is_given:
        return None
    if options.replies is not None:
        return RecordedReplies.read(options.replies, [item.id for item in benchmark.read_items(data_dir, tools)])
    source = make_source(options.kind or ("local" if options.url is None else "endpoint"), options)
    # One folder of replies may serve many runs, and every benchmark has ids of its own.
    cache = out / REPLIES if options.cache is None else options.cache / f"{benchmark.name}.jsonl"
    return KeepingJudge(source, benchmark, cache, retries=options.retries, allow_missing=allow_missing)


class KeepingJudge:
    """A judge of one benchmark; implements `mmdpo.benchmarks.definitions.AskingJudge`."""

    def __init__(
        self,
        source: Source,
        benchmark: Benchmark,
        cache: Path,
        *,
        retries: int = 2,
        allow_missing: bool = False,
        failures: int = FAILURES,
    ) -> None:
        """Takes where replies come from and the file that keeps them.

        `retries` is how many more replies are asked for where one cannot be read. A judge that gives no reply is an
        error unless `allow_missing`: then the item stays unscored. Raises ValueError for a benchmark without a judge,
        EvaluationError for a damaged file.
        """
        if benchmark.judge_prompt is None or benchmark.reads is None:
            raise ValueError(f"--judge: {benchmark.name} has no judge")
        if retries < 0:
            raise ValueError(f"--judge_retries is {retries}; it is 0 or more")
        self._prompt: Callable[[BenchmarkItem, str], str] = benchmark.judge_prompt
        self._reads: Callable[[str], bool] = benchmark.reads
        self._source, self._cache = source, ReplyCache(cache)
        self._retries, self._allow_missing, self._allowed_failures = retries, allow_missing, failures
        self._failed: list[Failure] = []
        self._without_reply: dict[str, Failure] = {}
        self._models: set[str] = set()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model that was asked for, and what the server says answered."""
        said = ", ".join(sorted(self._models - {self._source.model, ""}))
        return self._source.model + (f" (replies by {said})" if said else "")

    def ask_all(self, asked: Sequence[tuple[BenchmarkItem, str]]) -> None:
        """Gets a reply to every answer that has none, many at once; then again to those that cannot be read.

        Raises:
            EvaluationError: some got no reply, and that is not allowed. What was replied is kept.
        """
        for attempt in range(self._retries + 1):
            requests = {self._key(request): request for request in self._missing(asked, attempt)}
            if requests:
                self._complete(list(requests.values()), "judge" if attempt == 0 else f"judge, attempt {attempt + 1}")
        self._models.update(reply.model for item, answer in asked for reply in self._replies(item, answer))

    def reply(self, item: BenchmarkItem, answer: str) -> str | None:
        """Returns the first reply that can be read, else the last; None where the judge gave none."""
        replies = self._replies(item, answer)
        if not replies and self._prompt(item, answer) not in self._without_reply:
            self.ask_all([(item, answer)])
            replies = self._replies(item, answer)
        texts = [reply.text for reply in replies]
        return next((text for text in texts if self._reads(text)), texts[-1] if texts else None)

    def _request(self, item: BenchmarkItem, answer: str, attempt: int) -> Request:
        prompt = self._prompt(item, answer)
        return Request(item.id, answer, prompt if attempt == 0 else f"{prompt}\n\n{REMINDER}", attempt)

    def _key(self, request: Request) -> str:
        return digest_of([request.prompt, self._source.model, dict(self._source.settings(request.attempt))])

    def _replies(self, item: BenchmarkItem, answer: str) -> list[CachedReply]:
        """Returns the replies to an answer, of the first attempt and those after it, as far as there are any."""
        replies = []
        for attempt in range(self._retries + 1):
            found = self._cache.find(self._key(self._request(item, answer, attempt)))
            if found is None:
                break
            replies.append(found)
        return replies

    def _missing(self, asked: Sequence[tuple[BenchmarkItem, str]], attempt: int) -> list[Request]:
        """Returns the requests of this attempt: one for each answer whose earlier replies cannot be read."""
        requests = []
        for item, answer in asked:
            replies = self._replies(item, answer)
            unread = not any(self._reads(reply.text) for reply in replies)
            if unread and len(replies) == attempt and self._prompt(item, answer) not in self._without_reply:
                requests.append(self._request(item, answer, attempt))
        return requests

    def _complete(self, requests: Sequence[Request], title: str) -> None:
        self._cache.open()
        failed_before = len(self._without_reply)
        with tqdm(total=len(requests), desc=title, unit="reply", disable=None) as bar:

            def keep(request: Request, reply: Reply) -> None:
                settings = self._source.settings(request.attempt)
                about = {"requested_model": self._source.model, "readable": self._reads(reply.text)}
                self._cache.keep(self._key(request), request, reply, about | {"settings": dict(settings)})
                with self._lock:
                    bar.update()

            try:
                self._source.complete(requests, keep, self._fail)
            except _GiveUp:
                self._give_up(requests)
        if len(self._without_reply) > failed_before and not self._allow_missing:
            raise EvaluationError(self._explain(requests))

    def _fail(self, request: Request, failure: Failure) -> None:
        self._without_reply[request.prompt] = failure
        if failure.kind != "refused":
            self._failed.append(failure)
        if failure.kind == "stopped" or len(self._failed) >= self._allowed_failures:
            raise _GiveUp

    def _give_up(self, requests: Sequence[Request]) -> None:
        """Leaves what was not replied to without a reply, so that nobody asks for it again in this run."""
        for request in requests:
            if self._cache.find(self._key(request)) is None:
                self._without_reply.setdefault(request.prompt, self._failed[-1])

    def _explain(self, requests: Sequence[Request]) -> str:
        missing = [request for request in requests if request.prompt in self._without_reply]
        last = self._without_reply[missing[-1].prompt]
        return (
            f"the judge {self._source.model} gave no reply to {len(missing):,} of {len(requests):,} requests, the "
            f"first about item {missing[0].item_id}: {last.problem}. The {len(self._cache):,} replies so far are kept "
            f"in {self._cache.path}; the same command resumes there, and --partial scores without the rest"
        )


class _GiveUp(Exception):  # noqa: N818 - never seen outside
    """Nothing more is to be asked."""


# -- the replies on disk ----------------------------------------------------------------------------------------------


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
        """Makes sure that replies can be kept, before one is paid for; raises UnusableFileError where they cannot."""
        self._file.open()

    def find(self, key: str) -> CachedReply | None:
        """Returns the reply of a key, None if there is none."""
        return self._replies.get(key)

    def keep(self, key: str, request: Request, reply: Reply, about: Mapping[str, Any]) -> None:
        """Writes a reply to disk, then remembers it; `about` is added to the line.

        Raises UnusableFileError where the disk takes no more.
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


def _read_key(values: Mapping[str, Any], place: str) -> str:
    if not isinstance(values.get("key"), str) or not isinstance(values.get("reply"), str):
        raise EvaluationError(
            f"{place}: no kept reply of a judge ('key' and 'reply' are needed); remove the line, or name another "
            "folder (--judge_cache). Replies from elsewhere are read by --judge_replies"
        )
    return str(values["key"])
