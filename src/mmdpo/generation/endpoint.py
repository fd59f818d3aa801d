"""A chat endpoint that speaks OpenAI's protocol: one request with retries, a budget, and errors that say what to do.

Answers to questions and replies of judges both come through `ChatEndpoint`. The key is read from the environment by
the `openai` package (`OPENAI_API_KEY`), is never written down, and is cut out of whatever a server says. Nothing that a
server sends is trusted: a reply is limited in size and in time, and its JSON is read field by field.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mmdpo.files import printable, replace_surrogates
from mmdpo.generation.http_client import KEYLESS, FailedTry, make_client, read_retry_after, show_address
from mmdpo.generation.questions import (
    GenerationSettings,
    merge_logprobs,
)
from mmdpo.records import Message

_T = TypeVar("_T")
_R = TypeVar("_R")

LONGEST_WAIT = 300.0
"""Seconds: a server that asks to be left alone for longer is an error."""
_FIRST_WAIT, _LONGEST_OWN_WAIT = 1.0, 60.0
_WORTH_ANOTHER_TRY = (408, 409, 425, 429)
_ABOUT_THE_REQUEST = (400, 413, 422)
_NEWER_LIMIT = "max_completion_tokens"
"""What some models of OpenAI insist on instead of `max_tokens`, to the same effect; older servers know that alone."""
_SHORTEST_SECRET = 8
"""Characters: a shorter key is a placeholder for a local server, and may well be a word of an answer."""
_LEAST_LOGPROB = 1e5
"""Below 0: OpenAI says -9999 of what has next to no chance."""


class EndpointError(OSError):
    """An endpoint that gives no reply: says which, why, and what to do."""


class RefusedError(EndpointError):
    """An endpoint that refuses this one request; it may well answer another."""


class BudgetSpentError(EndpointError):
    """The requests or tokens that were allowed are used up."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint replied, and what the server says of it: the model, why it stopped, and its counts of tokens."""

    text: str
    model: str
    finish_reason: str
    usage: Mapping[str, int]
    """`prompt_tokens`, `completion_tokens`, `total_tokens`, as far as the server counts them."""
    top_logprobs: Mapping[str, float] = field(default_factory=dict)
    """log π of texts of first tokens, the likeliest first; empty where none were asked for, or the server says none."""


@dataclass
class Budget:
    """What may be spent at endpoints, by all threads together. Every try counts as a request, retries too."""

    max_requests: int | None = None
    max_tokens: int | None = None
    """Prompts and replies together, as servers count them. What is on its way when it is spent comes on top."""
    requests: int = 0
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take_request(self) -> None:
        """Counts one request; raises BudgetSpentError instead where there is none left."""
        with self._lock:
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise BudgetSpentError(f"the budget of {self.max_requests:,} requests is spent")
            if self.max_tokens is not None and self.tokens >= self.max_tokens:
                used = f"{self.tokens:,} were used, with what was on its way"
                raise BudgetSpentError(f"the budget of {self.max_tokens:,} tokens is spent ({used})")
            self.requests += 1

    def add_tokens(self, usage: Mapping[str, int]) -> None:
        """Counts the tokens of a reply: the total, or what is known of it."""
        known = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        with self._lock:
            self.tokens += usage.get("total_tokens", known)


class ChatEndpoint:
    """A model behind `{base_url}/chat/completions`. Threads may share one; `close` ends it, waits included."""

    def __init__(
        self, base_url: str, model: str, *, timeout: float = 120.0, retries: int = 6, budget: Budget | None = None
    ) -> None:
        """Makes a client and sends nothing.

        `timeout` is in seconds, for the whole of one try; `retries` is how many more tries a request gets after a
        timeout, a lost connection, a reply that is cut off, too large, no JSON or without text, and the states 408,
        409, 425, 429 and 5xx. Raises ImportError without the `openai` package, ValueError for an address that is none,
        a timeout of no time, or a key that no header can hold.
        """
        self.address = show_address(base_url)
        if not timeout > 0:
            raise ValueError(f"a timeout of {timeout:g} s lets nothing reply; give one above 0")
        self.base_url, self.model, self.timeout = base_url, model, timeout
        self.retries, self.budget = retries, budget or Budget()
        self._client = make_client(base_url, timeout)
        parts = urlsplit(base_url)
        self._secrets = [secret for secret in (self._client.api_key, parts.password, parts.query) if secret]
        self._loop = _event_loop()  # here, since the first requests may come from many threads at once
        self._closed = threading.Event()
        self._running: set[Future[Any]] = set()
        self._limit_name = "max_tokens"

    def complete(self, messages: Sequence[Message], settings: GenerationSettings) -> Reply:
        """Returns the reply to chat messages in OpenAI's form.

        Raises EndpointError for no reply after all tries, or an answer that no other try would change (key, address);
        RefusedError where the server refuses this request (states 400, 413, 422); BudgetSpentError; ValueError for a
        setting that endpoints do not have.
        """
        if settings.num_beams > 1:
            raise ValueError(f"an endpoint searches no beams (num_beams is {settings.num_beams}): give --num_beams 1")
        for attempt in range(self.retries + 1):
            if self._closed.is_set():
                raise EndpointError(f"{self.address}: closed")
            self.budget.take_request()
            try:
                return self._ask(messages, settings)
            except FailedTry as failure:
                if attempt == self.retries:
                    why = f"{self._tidy(str(failure))}; gave up after {attempt + 1} tries"
                    raise EndpointError(f"{self.address}: {why}") from None
                self._wait(attempt, failure)
        raise AssertionError("the last try returns or raises")

    def ask_each(
        self, waiting: deque[_T], ask: Callable[[_T], _R], concurrency: int
    ) -> Iterator[tuple[_T, _R | Exception]]:
        """Yields each of `waiting` with what asking about it returned or raised, as they finish, `concurrency` at once.

        Whoever clears `waiting` ends the asking, and what is on its way is still yielded. Where the iterator is closed
        before, or interrupted, nobody wants the rest, and the endpoint is closed.
        """
        asked: dict[Future[_R], _T] = {}
        threads = ThreadPoolExecutor(concurrency)
        try:
            while asked or waiting:
                while waiting and len(asked) < concurrency:
                    item = waiting.popleft()
                    asked[threads.submit(ask, item)] = item
                for future in wait(asked, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield asked.pop(future), future.result() if error is None else error
        finally:
            if asked:
                self.close()
            threads.shutdown()

    def close(self) -> None:
        """Ends waits and connections; requests on their way fail."""
        self._closed.set()
        for running in list(self._running):
            running.cancel()

    def _ask(self, messages: Sequence[Message], settings: GenerationSettings) -> Reply:
        """Makes one try. No exception of the libraries below leaves it: their texts may hold the key."""
        import openai

        limit_name = self._limit_name
        options: dict[str, Any] = {limit_name: settings.max_new_tokens, "temperature": settings.temperature}
        if settings.temperature > 0:
            options |= {"top_p": settings.top_p, "seed": settings.seed}
        if settings.top_logprobs:
            options |= {"logprobs": True, "top_logprobs": settings.top_logprobs}
        try:
            content = self._run(self._post(model=self.model, messages=list(messages), **options))
        except (TimeoutError, openai.APITimeoutError):
            raise FailedTry(f"no whole reply within {self.timeout:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, FailedTry):
                raise error.__cause__ from None
            why = self._tidy(str(error.__cause__ or error))
            raise FailedTry(f"no connection, or one that broke off ({why})") from None
        except openai.APIStatusError as error:
            if limit_name == "max_tokens" and error.status_code == 400 and _NEWER_LIMIT in str(error.message):
                self._limit_name = _NEWER_LIMIT
                self.budget.take_request()
                return self._ask(messages, settings)
            raise self._explain_state(error) from None
        completion = self._parse(content)
        usage = _read_usage(completion.get("usage"))
        self.budget.add_tokens(usage)  # a reply without text is paid for too
        return self._read_reply(completion, usage, settings.top_logprobs)

    async def _post(self, **request: Any) -> bytes:
        async with asyncio.timeout(self.timeout):  # the client's own limits are for each read, and bytes may drip
            raw = await self._client.chat.completions.with_raw_response.create(**request)
            return bytes(raw.http_response.content)

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Waits for work of the event loop; raises EndpointError if this endpoint is closed meanwhile."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._running.add(running)
        if self._closed.is_set():
            running.cancel()
        try:
            return running.result()
        except concurrent.futures.CancelledError:
            raise EndpointError(f"{self.address}: closed") from None
        finally:
            running.cancel()  # where the wait itself was interrupted
            self._running.discard(running)

    def _parse(self, content: bytes) -> Mapping[str, Any]:
        try:
            completion = json.loads(content)
        except (ValueError, RecursionError) as error:
            start = self._tidy(content[:4096].decode("utf-8", "replace"))[:60]
            raise FailedTry(f"a reply that is no JSON ({type(error).__name__}; it begins {start!r})") from None
        if not isinstance(completion, dict):
            raise FailedTry(f"a reply that is no chat completion (JSON, but {type(completion).__name__})")
        return completion

    def _read_reply(self, completion: Mapping[str, Any], usage: Mapping[str, int], top_logprobs: int) -> Reply:
        """Returns the first choice of a completion; raises FailedTry for one without text, RefusedError as it says."""
        choices = completion.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            said = completion.get("error") or completion
            raise FailedTry(f"a reply that is no chat completion ({self._tidy(json.dumps(said))[:200]})")
        reason, model = (
            said if isinstance(said, str) else "" for said in (choice.get("finish_reason"), completion.get("model"))
        )
        text = _join_parts(message.get("content"))
        if text is None and isinstance(message.get("refusal"), str) and message["refusal"]:
            raise RefusedError(f"{self.address} refuses to reply: {self._tidy(message['refusal'])[:300]}")
        if text is None and reason == "content_filter":
            raise RefusedError(f"{self.address} refuses to reply: its filter left no text (finish_reason {reason!r})")
        if text is None:
            why = f"finish_reason {self._tidy(reason)[:40]!r}" if reason else "no reason given"
            hint = "; the limit of new tokens was spent before any text came" if reason == "length" else ""
            raise FailedTry(f"a reply without text ({why}){hint}")
        if reason == "error":
            raise FailedTry("a reply that the server itself calls an error (finish_reason 'error')")
        likeliest = {}
        if top_logprobs:
            found = _read_first_tokens(choice.get("logprobs"))[:top_logprobs]
            likeliest = merge_logprobs((self._clean(token), logprob) for token, logprob in found)
        return Reply(self._clean(text), self._clean(model), self._clean(reason), usage, likeliest)

    def _explain_state(self, error: Any) -> Exception:
        said = f"state {error.status_code} ({self._tidy(str(error.message))[:300]})"
        if error.status_code in _ABOUT_THE_REQUEST:
            return RefusedError(f"{self.address} refuses a request: {said}")
        if error.status_code in _WORTH_ANOTHER_TRY or error.status_code >= 500:
            return FailedTry(said, read_retry_after(error.response.headers))
        if 300 <= error.status_code < 400:
            place = self._tidy(error.response.headers.get("location", "no place"))[:200]
            return EndpointError(
                f"{self.address}: state {error.status_code}, it sends on to {place}; prompts go to the given address "
                "alone, so give that one if it is the right one"
            )
        hint = {
            401: "; is OPENAI_API_KEY set to this server's key?",
            403: "; may this key use the model?",
            404: f"; is the address right (it often ends in /v1), and does the server have the model {self.model!r}?",
        }
        return EndpointError(f"{self.address}: {said}{hint.get(error.status_code, '')}")

    def _clean(self, text: str) -> str:
        """Returns text of a server that can be written down: no half characters, and not the key."""
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "…")
        return replace_surrogates(text)

    def _tidy(self, text: str) -> str:
        """Returns text of a server for a message: on one line, nothing that steers a terminal, no secret."""
        for secret in self._secrets:
            if secret != KEYLESS:
                text = text.replace(secret, "…")
        return printable(" ".join(text.split()))

    def _wait(self, attempt: int, failure: FailedTry) -> None:
        """Waits for what the server asks, else for twice as long as last time; the random part keeps clients apart."""
        if failure.retry_after > LONGEST_WAIT:
            wait = f"it asks to wait {failure.retry_after:.0f} s: run the same command again later"
            raise EndpointError(f"{self.address}: {self._tidy(str(failure))}; {wait}") from None
        own = min(_FIRST_WAIT * 2**attempt, _LONGEST_OWN_WAIT) * random.uniform(0.5, 1.0)
        self._closed.wait(failure.retry_after + 0.1 * own if failure.retry_after else own)


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Returns the loop that all endpoints of this process share: there a try can be ended whatever it waits for."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def _join_parts(content: Any) -> str | None:
    """Returns the text of a message, whose parts some servers list; None for a message without text.

    What a model thought stands in parts of its own, which are no answer. Raises FailedTry for other content.
    """
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind in ("text", "output_text") and isinstance(text, str):
            texts.append(text)
        elif kind not in ("thinking", "reasoning"):
            raise FailedTry(f"a reply with a part that is no text ({type(part).__name__}, {str(kind)[:40]!r})")
    return "".join(texts) if texts else None


def _read_usage(counted: Any) -> dict[str, int]:
    """Returns the counts of tokens that are whole numbers; a server may count otherwise, or not at all."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    known = {name: counted.get(name) for name in names} if isinstance(counted, dict) else {}
    return {name: n for name, n in known.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}


def _read_first_tokens(logprobs: Any) -> list[tuple[str, float]]:
    """Returns the tokens that an answer may begin with, and log π of each, as far as a choice's `logprobs` say them."""
    steps = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = steps[0] if isinstance(steps, list) and steps else None
    likeliest = first.get("top_logprobs") if isinstance(first, dict) else None
    entries = [each for each in likeliest if isinstance(each, dict)] if isinstance(likeliest, list) else []
    pairs = [(each.get("token"), each.get("logprob")) for each in entries]
    return [
        (token, float(logprob))
        for token, logprob in pairs
        if isinstance(token, str)
        and isinstance(logprob, int | float)
        and not isinstance(logprob, bool)
        and -_LEAST_LOGPROB < logprob <= 0
    ]
