"""A chat endpoint that speaks OpenAI's protocol: one request with retries, a budget, and errors that say what to do.

Answers to questions and replies of judges both come through `ChatEndpoint`. The key is read from the environment by
the `openai` package (`OPENAI_API_KEY`), is never written down, and is cut out of what a server says of it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from mmdpo.examples import Message
from mmdpo.generation.prompts import chat_request
from mmdpo.generation.records import GeneratedAnswer, GenerationSettings, Processes, Question, list_versions

LONGEST_WAIT = 300.0
"""Seconds: a server that asks to be left alone for longer is an error."""
_FIRST_WAIT, _LONGEST_OWN_WAIT = 1.0, 60.0
_WORTH_ANOTHER_TRY = (408, 409, 425, 429)
_ABOUT_THE_REQUEST = (400, 413, 422)
_NEWER_LIMIT = "max_completion_tokens"
"""What some models of OpenAI insist on instead of `max_tokens`, to the same effect; older servers know that alone."""
_KEYLESS = "none"
"""Stands where a local server asks for no key; the package insists on one."""


class EndpointError(OSError):
    """An endpoint that gives no reply: says which, why, and what to do."""


class RefusedError(EndpointError):
    """An endpoint that refuses this one request; it may well answer another."""


class BudgetSpentError(EndpointError):
    """The requests or tokens that were allowed are used up."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint replied."""

    text: str
    model: str
    """The model that the server says it was."""
    finish_reason: str
    usage: Mapping[str, int]
    """`prompt_tokens`, `completion_tokens`, `total_tokens`; empty where the server counts none."""


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
                raise BudgetSpentError(
                    f"the budget of {self.max_tokens:,} tokens is spent ({self.tokens:,} were used, with what was on "
                    "its way)"
                )
            self.requests += 1

    def add_tokens(self, usage: Mapping[str, int]) -> None:
        """Counts the tokens of a reply."""
        with self._lock:
            self.tokens += usage.get("total_tokens", 0)


class ChatEndpoint:
    """A model behind `{base_url}/chat/completions`. Threads may share one; `close` ends it, waits included."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        timeout: float = 120.0,
        retries: int = 6,
        budget: Budget | None = None,
    ) -> None:
        """Makes a client and sends nothing.

        `timeout` is in seconds, for one try; `retries` is how many more tries a request gets after a timeout, a lost
        connection, a reply that is cut off or no JSON, and the states 408, 409, 425, 429 and 5xx. Raises ImportError
        without the `openai` package, ValueError for an address that is none or a timeout of no time.
        """
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"{base_url!r} is no address of an endpoint; give one such as http://localhost:8000/v1")
        if timeout <= 0:
            raise ValueError(f"a timeout of {timeout:g} s lets nothing reply; give one above 0")
        self.base_url, self.model = base_url, model
        self.retries, self.budget = retries, budget or Budget()
        self._client = _make_client(base_url, timeout)
        self._closed = threading.Event()
        self._limit_name = "max_tokens"

    @property
    def address(self) -> str:
        """Where it is, without a user name, a password or a query."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def complete(self, messages: Sequence[Message], settings: GenerationSettings) -> Reply:
        """Returns the reply to chat messages in OpenAI's form.

        Raises:
            EndpointError: no reply after all tries, or an answer that no other try would change (key, address).
            RefusedError: the server refuses this request (states 400, 413, 422).
            BudgetSpentError: nothing may be spent any more.
            ValueError: a setting that endpoints do not have.
        """
        if settings.num_beams > 1:
            raise ValueError(f"an endpoint searches no beams (num_beams is {settings.num_beams}): give --num_beams 1")
        for attempt in range(self.retries + 1):
            if self._closed.is_set():
                raise EndpointError(f"{self.address}: closed")
            self.budget.take_request()
            try:
                reply = self._ask(messages, settings)
            except _FailedTry as failure:
                if attempt == self.retries:
                    raise EndpointError(f"{self.address}: {failure}; gave up after {attempt + 1} tries") from failure
                self._wait(attempt, failure)
                continue
            self.budget.add_tokens(reply.usage)
            return reply
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Ends waits and connections; requests on their way fail."""
        self._closed.set()
        self._client.close()

    def _ask(self, messages: Sequence[Message], settings: GenerationSettings) -> Reply:
        import openai

        limit_name = self._limit_name
        options: dict[str, Any] = {limit_name: settings.max_new_tokens, "temperature": settings.temperature}
        if settings.temperature > 0:
            options |= {"top_p": settings.top_p, "seed": settings.seed}
        try:
            return _read_reply(
                self._client.chat.completions.create(model=self.model, messages=list(messages), **options)
            )
        except openai.APITimeoutError as error:
            raise _FailedTry(f"no reply within {self._client.timeout} s") from error
        except openai.APIConnectionError as error:
            raise _FailedTry(f"no connection, or one that broke off ({error.__cause__ or error})") from error
        except openai.APIStatusError as error:
            if limit_name == "max_tokens" and error.status_code == 400 and _NEWER_LIMIT in str(error.message):
                self._limit_name = _NEWER_LIMIT
                return self._ask(messages, settings)
            raise self._explain_state(error) from error
        except ValueError as error:  # the package lets errors of the JSON reader through
            raise _FailedTry(f"a reply that cannot be read ({error})") from error

    def _explain_state(self, error: Any) -> Exception:
        """Returns what a state of HTTP means here."""
        said = f"state {error.status_code} ({self._without_key(str(error.message))[:300]})"
        if error.status_code in _ABOUT_THE_REQUEST:
            return RefusedError(f"{self.address} refuses a request: {said}")
        if error.status_code in _WORTH_ANOTHER_TRY or error.status_code >= 500:
            return _FailedTry(said, _read_retry_after(error.response.headers))
        hint = {
            401: "; is OPENAI_API_KEY set to this server's key?",
            403: "; may this key use the model?",
            404: f"; is the address right (it often ends in /v1), and does the server have the model {self.model!r}?",
        }
        return EndpointError(f"{self.address}: {said}{hint.get(error.status_code, '')}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._client.api_key, "…") if self._client.api_key != _KEYLESS else text

    def _wait(self, attempt: int, failure: _FailedTry) -> None:
        """Waits for what the server asks, else for twice as long as last time; the random part keeps clients apart."""
        if failure.retry_after > LONGEST_WAIT:
            raise EndpointError(
                f"{self.address}: {failure}; it asks to wait {failure.retry_after:.0f} s: go on later, by the same "
                "command"
            ) from failure
        own = min(_FIRST_WAIT * 2**attempt, _LONGEST_OWN_WAIT) * random.uniform(0.5, 1.0)
        self._closed.wait(failure.retry_after + 0.1 * own if failure.retry_after else own)


class EndpointAnswerer:
    """Answers from a model behind an endpoint."""

    def __init__(self, endpoint: ChatEndpoint, *, concurrency: int = 8) -> None:
        """Takes an endpoint and how many requests may be on their way at once; nothing is sent."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more; got {concurrency}")
        self.endpoint, self.concurrency = endpoint, concurrency
        self.processes = Processes()

    def describe(self) -> Mapping[str, Any]:
        """Returns the model that is asked for, and where."""
        asked = {"backend": "endpoint", "model": self.endpoint.model, "base_url": self.endpoint.address}
        return asked | {"versions": list_versions("mmdpo", "openai")}

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers as they arrive.

        A question that the endpoint refuses is left out, and the refusal raised behind all others. Anything else that
        fails ends the asking; what was on its way by then is still yielded before the error is raised.
        """
        refused: list[RefusedError] = []
        failed: Exception | None = None
        waiting = list(reversed(questions))
        asked: set[Future[GeneratedAnswer]] = set()
        threads = ThreadPoolExecutor(self.concurrency)
        try:
            while asked or (waiting and failed is None):
                while waiting and failed is None and len(asked) < self.concurrency:
                    asked.add(threads.submit(self._ask, waiting.pop(), settings))
                done, asked = wait(asked, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        yield future.result()
                    except RefusedError as error:
                        refused.append(error)
                    except (EndpointError, ValueError) as error:
                        failed = failed or error
        finally:
            if asked:  # nobody wants the rest: waits between tries would hold up the end
                self.endpoint.close()
            threads.shutdown()
        if failed is not None:
            raise failed
        if refused:
            raise RefusedError(f"{len(refused):,} questions got no answer; the first: {refused[0]}")

    def _ask(self, question: Question, settings: GenerationSettings) -> GeneratedAnswer:
        try:
            reply = self.endpoint.complete(chat_request(question, settings), settings)
        except RefusedError as error:
            raise RefusedError(f"item {question.id}: {error}") from error
        details = {"model": reply.model, "finish_reason": reply.finish_reason}
        return GeneratedAnswer(question.id, reply.text.strip(), details)


class _FailedTry(Exception):  # noqa: N818 - never seen outside
    """One try that another may mend."""

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


def _make_client(base_url: str, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError('an endpoint needs the openai package: pip install "mmdpo[openai]"') from error
    options: dict[str, Any] = dict(base_url=base_url, timeout=timeout, max_retries=0)
    try:
        return openai.OpenAI(**options)
    except openai.OpenAIError:  # no key in the environment
        return openai.OpenAI(api_key=_KEYLESS, **options)


def _read_reply(completion: Any) -> Reply:
    """Raises _FailedTry for what is no chat completion: the package checks nothing."""
    try:
        choice = completion.choices[0]
        text = choice.message.content or ""
    except (AttributeError, IndexError, TypeError) as error:
        raise _FailedTry(f"a reply that is no chat completion ({str(completion)[:80]!r})") from error
    counted = completion.usage.model_dump() if completion.usage is not None else {}
    usage = {name: counted[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens") if name in counted}
    return Reply(str(text), str(completion.model or ""), str(choice.finish_reason or ""), usage)


def _read_retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds that a server asks to wait, given as a number or a date; 0 where it says nothing readable."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return 0.0 if math.isnan(seconds) else max(0.0, seconds)
