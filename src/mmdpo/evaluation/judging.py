"""A judge that keeps every reply, asks again for those that cannot be read, and gives up when it is down.

Replies are lines of a file, each appended as it arrives, so that none is ever asked for twice:

    {"id", "answer", "reply", "model", "requested_model", "attempt", "readable", "finish_reason", "usage", "time",
     "settings", "key"}

`key` is the SHA-256 of prompt, requested model and settings. `--judge_replies` reads the file too.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from mmdpo.benchmarks.definitions import BenchmarkItem, Judge, Tools
from mmdpo.benchmarks.reading import EvaluationError, Row, read_rows
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.tasks import Benchmark
from mmdpo.benchmarks.tolerant import take_off_thoughts
from mmdpo.files import digest_of
from mmdpo.generation.endpoint import Reply
from mmdpo.judges import Failure, JudgeOptions, Request, Source, make_source
from mmdpo.line_file import LineFile, mend_last_line

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
    if not options.model and (more := options.given - {"judge_replies"}):
        raise ValueError(f"--{min(more)} is of a judge that is asked: name it, --judge_model, or leave this out")
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
        judged = benchmark.judged_ids(benchmark.read_items(data_dir, tools))
        return RecordedReplies.read(options.replies, judged, benchmark.reads)
    source = make_source(options.kind or ("local" if options.url is None else "endpoint"), options)
    # One folder of replies may serve many runs, and every benchmark has ids of its own.
    cache = out / REPLIES if options.cache is None else options.cache / f"{benchmark.name}.jsonl"
    return KeepingJudge(source, options, benchmark, cache, allow_missing=allow_missing)


class KeepingJudge:
    """A judge of one benchmark; implements `mmdpo.benchmarks.definitions.AskingJudge`."""

    def __init__(
        self,
        source: Source,
        options: JudgeOptions,
        benchmark: Benchmark,
        cache: Path,
        *,
        allow_missing: bool = False,
        failures: int = FAILURES,
    ) -> None:
        """Takes where replies come from and the file that keeps them; a last line of it that is cut off is removed.

        A judge that gives no reply is an error unless `allow_missing`: then the item stays unscored. Raises ValueError
        for a benchmark without a judge, EvaluationError with file and line for a line that is no kept reply.
        """
        if benchmark.judge_prompt is None or benchmark.reads is None:
            raise ValueError(f"--judge: {benchmark.name} has no judge")
        self._prompt, self._reads_reply = benchmark.judge_prompt, benchmark.reads
        self._source, self._options = source, options
        self._allow_missing, self._allowed_failures = allow_missing, failures
        self._failed: list[Failure] = []
        self._without_reply: dict[str, Failure] = {}
        self._models: set[str] = set()
        self._lock = threading.Lock()
        self._file = LineFile(cache)
        self._kept: dict[str, tuple[str, str]] = {}  # key → text of a reply, and the model that the server said it was
        if cache.exists():
            mend_last_line(cache)
            self._kept.update(map(_read_kept, read_rows(cache)))

    @property
    def name(self) -> str:
        """The model that was asked for, and what the server says answered."""
        said = ", ".join(sorted(self._models - {self._options.model, ""}))
        return self._options.model + (f" (replies by {said})" if said else "")

    def ask_all(self, asked: Sequence[tuple[BenchmarkItem, str]]) -> None:
        """Gets a reply to every answer that has none, many at once; then again to those that cannot be read.

        Raises EvaluationError where some got no reply, and that is not allowed. What was replied is kept.
        """
        for attempt in range(self._options.retries + 1):
            requests = {}
            for item, answer in asked:
                texts = self._texts(item, answer)
                is_open = len(texts) == attempt and not any(map(self._reads, texts))
                if is_open and self._prompt(item, answer) not in self._without_reply:
                    request = self._request(item, answer, attempt)
                    requests[self._key(request)] = request
            if requests:
                self._complete(list(requests.values()), "judge" if attempt == 0 else f"judge, attempt {attempt + 1}")
        self._models.update(model for item, answer in asked for _, model in self._replies(item, answer))

    def reply(self, item: BenchmarkItem, answer: str) -> str | None:
        """Returns the first reply that can be read, else the last, without thoughts; None where the judge gave none."""
        texts = self._texts(item, answer)
        if not texts and self._prompt(item, answer) not in self._without_reply:
            self.ask_all([(item, answer)])
            texts = self._texts(item, answer)
        found = next(filter(self._reads, texts), texts[-1] if texts else None)
        return None if found is None else take_off_thoughts(found)

    def _reads(self, reply: str) -> bool:
        return self._reads_reply(take_off_thoughts(reply))

    def _request(self, item: BenchmarkItem, answer: str, attempt: int) -> Request:
        prompt = self._prompt(item, answer)
        return Request(item.id, answer, prompt if attempt == 0 else f"{prompt}\n\n{REMINDER}", attempt)

    def _key(self, request: Request) -> str:
        return digest_of([request.prompt, self._options.model, self._options.settings(request.attempt)])

    def _replies(self, item: BenchmarkItem, answer: str) -> list[tuple[str, str]]:
        """Returns the replies to an answer, of the first attempt and those after it, as far as there are any."""
        replies = []
        for attempt in range(self._options.retries + 1):
            found = self._kept.get(self._key(self._request(item, answer, attempt)))
            if found is None:
                break
            replies.append(found)
        return replies

    def _texts(self, item: BenchmarkItem, answer: str) -> list[str]:
        return [text for text, _ in self._replies(item, answer)]

    def _complete(self, requests: Sequence[Request], title: str) -> None:
        self._file.open()  # before a reply is paid for
        with tqdm(total=len(requests), desc=title, unit="reply", disable=None) as bar:

            def keep(request: Request, reply: Reply) -> None:
                with self._lock:
                    self._keep(request, reply)
                    bar.update()

            try:
                self._source.complete(requests, keep, self._fail)
            except _GiveUp:  # nobody asks in this run for what was not replied to
                for request in requests:
                    if self._key(request) not in self._kept:
                        self._without_reply.setdefault(request.prompt, self._failed[-1])
        missing = [request for request in requests if request.prompt in self._without_reply]
        if missing and not self._allow_missing:
            raise EvaluationError(
                f"the judge {self._options.model} gave no reply to {len(missing):,} of {len(requests):,} requests, the "
                f"first about item {missing[0].item_id}: {self._without_reply[missing[-1].prompt].problem}. The "
                f"{len(self._kept):,} replies so far are kept in {self._file.path}; the same command resumes there, "
                "and --partial scores without the rest"
            )

    def _keep(self, request: Request, reply: Reply) -> None:
        """Writes a reply to disk, then remembers it; raises UnusableFileError where the disk takes no more."""
        key = self._key(request)
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
            "requested_model": self._options.model,
            "readable": self._reads(reply.text),
            "settings": self._options.settings(request.attempt),
        }
        self._file.append(line)
        self._kept[key] = reply.text, reply.model

    def _fail(self, request: Request, failure: Failure) -> None:
        self._without_reply[request.prompt] = failure
        if failure.kind != "refused":
            self._failed.append(failure)
        if failure.kind == "stopped" or len(self._failed) >= self._allowed_failures:
            raise _GiveUp


class _GiveUp(Exception):  # noqa: N818 - never seen outside
    """Nothing more is to be asked."""


def _read_kept(row: Row) -> tuple[str, tuple[str, str]]:
    key, reply = row.values.get("key"), row.values.get("reply")
    if not isinstance(key, str) or not isinstance(reply, str):
        raise EvaluationError(
            f"{row.place}: no kept reply of a judge ('key' and 'reply' are needed); remove the line, or name another "
            "folder (--judge_cache). Replies from elsewhere are read by --judge_replies"
        )
    return key, (reply, str(row.values.get("model", "")))
