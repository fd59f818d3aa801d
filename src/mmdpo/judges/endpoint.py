"""A model behind an OpenAI-compatible endpoint: requests at once, each with retries; the key is `OPENAI_API_KEY`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mmdpo.generation.endpoint import BudgetSpentError, ChatEndpoint, EndpointError, RefusedError
from mmdpo.generation.questions import GenerationSettings
from mmdpo.judges import Fail, Failure, JudgeOptions, Keep, Request


def make_source(options: JudgeOptions) -> EndpointSource:
    """Returns the judge; raises ValueError without an address, ImportError without the `openai` package."""
    if options.url is None:
        raise ValueError("a judge behind an endpoint needs its address: --judge_url http://localhost:8000/v1")
    endpoint = ChatEndpoint(options.url, options.model, timeout=options.timeout, retries=options.tries - 1)
    return EndpointSource(endpoint, options)


@dataclass
class EndpointSource:
    """Asks over HTTP."""

    endpoint: ChatEndpoint
    options: JudgeOptions

    def complete(self, requests: Sequence[Request], keep: Keep, fail: Fail) -> None:
        """Asks all, `concurrency` at once; what is on its way when `fail` raises is still waited for and kept."""

        def ask(request: Request) -> None:
            settings = GenerationSettings(**self.options.settings(request.attempt))
            keep(request, self.endpoint.complete([{"role": "user", "content": request.prompt}], settings))

        waiting, ended = deque(requests), list[Exception]()
        for request, outcome in self.endpoint.ask_each(waiting, ask, self.options.concurrency):
            try:
                if isinstance(outcome, EndpointError):
                    fail(request, _explain(outcome))
                elif outcome is not None:
                    raise outcome
            except Exception as error:
                ended.append(error)
                waiting.clear()
        if ended:
            raise ended[0]


def _explain(error: EndpointError) -> Failure:
    if isinstance(error, RefusedError):
        return Failure(str(error), "refused")
    return Failure(str(error), "stopped" if isinstance(error, BudgetSpentError) else "failed")
