"""A judge that keeps every reply, asks again for those that cannot be read, and gives up when it is down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.records import Item
from mmdpo.benchmarks.tasks import Benchmark
from mmdpo.evaluation.judge_cache import CachedReply, ReplyCache, make_key
from mmdpo.generation.endpoint import Reply
from mmdpo.judges import Failure, Request, Source

FAILURES = 3
"""Requests that may fail, each after all its tries, before nothing more is asked."""
REMINDER = (
    "An earlier reply to this could not be read by the program that it was for. Keep exactly to the form that is asked "
    "for above."
)


class KeepingJudge:
    """A judge of one benchmark; implements `mmdpo.benchmarks.records.AskingJudge`."""

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
        self._prompt: Callable[[Item, str], str] = benchmark.judge_prompt
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

    def ask_all(self, asked: Sequence[tuple[Item, str]]) -> None:
        """Gets a reply to every answer that has none, many at once; then again to those that cannot be read.

        Raises:
            EvaluationError: some got no reply, and that is not allowed. What was replied is kept.
        """
        for attempt in range(self._retries + 1):
            requests = {self._key(request): request for request in self._missing(asked, attempt)}
            if requests:
                self._complete(list(requests.values()), "judge" if attempt == 0 else f"judge, attempt {attempt + 1}")
        self._models.update(reply.model for item, answer in asked for reply in self._replies(item, answer))

    def reply(self, item: Item, answer: str) -> str | None:
        """Returns the first reply that can be read, else the last; None where the judge gave none."""
        replies = self._replies(item, answer)
        if not replies and self._prompt(item, answer) not in self._without_reply:
            self.ask_all([(item, answer)])
            replies = self._replies(item, answer)
        texts = [reply.text for reply in replies]
        return next((text for text in texts if self._reads(text)), texts[-1] if texts else None)

    def _request(self, item: Item, answer: str, attempt: int) -> Request:
        prompt = self._prompt(item, answer)
        return Request(item.id, answer, prompt if attempt == 0 else f"{prompt}\n\n{REMINDER}", attempt)

    def _key(self, request: Request) -> str:
        return make_key(request.prompt, self._source.model, self._source.settings(request.attempt))

    def _replies(self, item: Item, answer: str) -> list[CachedReply]:
        """Returns the replies to an answer, of the first attempt and those after it, as far as there are any."""
        replies = []
        for attempt in range(self._retries + 1):
            found = self._cache.find(self._key(self._request(item, answer, attempt)))
            if found is None:
                break
            replies.append(found)
        return replies

    def _missing(self, asked: Sequence[tuple[Item, str]], attempt: int) -> list[Request]:
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
            f"in {self._cache.path}; the same command goes on from there, and --partial scores without the rest"
        )


class _GiveUp(Exception):  # noqa: N818 - never seen outside
    """Nothing more is to be asked."""
