"""Answers to questions from a model behind a chat endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmdpo.generation.endpoint import ChatEndpoint, RefusedError
from mmdpo.generation.questions import GeneratedAnswer, GenerationSettings, Processes, Question, chat_request
from mmdpo.registry import list_versions


class EndpointAnswerer:
    """Answers from a model behind an endpoint."""

    def __init__(self, endpoint: ChatEndpoint, *, concurrency: int = 8) -> None:
        """Takes an endpoint and how many requests, 1 or more, may be on their way at once; nothing is sent."""
        self.endpoint, self.concurrency = endpoint, concurrency
        self.processes = Processes()

    def describe(self) -> Mapping[str, Any]:
        """Returns the model that is asked for, and where."""
        asked = {"backend": "endpoint", "model": self.endpoint.model, "base_url": self.endpoint.address}
        return asked | {"versions": list_versions("mmdpo", "openai")}

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers as they arrive.

        A question that the endpoint refuses is left out, and the refusal raised after all others are answered. Anything
        else that fails ends the asking; what was on its way by then is still yielded before the error is raised. Raises
        ValueError, before anything is sent, for an answer that is begun: the protocol has no way to go on from it.
        """
        begun = next((question.id for question in questions if question.begun), None)
        if begun is not None:
            raise ValueError(f"item {begun}: an endpoint goes on from no answer that is begun; ask a model loaded here")
        refused: list[RefusedError] = []
        failed: Exception | None = None
        waiting = deque(questions)
        for _, outcome in self.endpoint.ask_each(waiting, partial(self._ask, settings), self.concurrency):
            if isinstance(outcome, RefusedError):
                refused.append(outcome)
            elif isinstance(outcome, Exception):  # a picture that cannot be read, for instance
                failed = failed or outcome
                waiting.clear()
            else:
                yield outcome
        if failed is not None:
            raise failed
        if refused:
            raise RefusedError(f"{len(refused):,} questions got no answer; the first: {refused[0]}")

    def _ask(self, settings: GenerationSettings, question: Question) -> GeneratedAnswer:
        # Of a seed 31 bits, which every server takes.
        own = replace(settings, seed=question.sampling_seed(settings) % 2**31)
        try:
            reply = self.endpoint.complete(chat_request(question, settings), own)
        except RefusedError as error:
            raise RefusedError(f"item {question.id}: {error}") from error
        said: dict[str, Any] = {"model": reply.model, "finish_reason": reply.finish_reason}
        for name, counted in (("tokens", "completion_tokens"), ("prompt_tokens", "prompt_tokens")):
            if counted in reply.usage:
                said[name] = reply.usage[counted]
        if reply.top_logprobs:
            said["top_logprobs"] = dict(reply.top_logprobs)
        return GeneratedAnswer(question.id, reply.text.strip(), said)
