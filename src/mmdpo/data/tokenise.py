"""From an example to the text and the tokens of its prompt and answers, with the boundary between them exact."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmdpo.data.clock import Clock, asks_for_date, default_template
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.examples import Message, PreferenceExample, RowError, Text
from mmdpo.families import Family


@dataclass(frozen=True)
class PromptText:
    """A prompt and its answers as the model reads them: the prompt ends where generation would begin."""

    prompt: str
    """Rendered, with one unexpanded placeholder of the model's own per image, and BOS only where a template has it."""
    answers: dict[str, str]
    """Rendered to the end of the turn, by response name."""


@dataclass(frozen=True)
class Renderer:
    """Renders and tokenises with the model's own processor and chat template."""

    processor: Any
    family: Family
    clock: Clock = field(default_factory=Clock)
    """What templates are told that ask for the date."""

    @property
    def tokenizer(self) -> Any:
        """The text part of the processor."""
        return self.processor.tokenizer

    def render(self, example: PreferenceExample, responses: Iterable[str], *, with_images: bool) -> PromptText:
        """Returns the texts of an example's prompt, with its images or with the placeholders deleted, and answers.

        Raises RowError for a response the row lacks, and for chat turns where the processor has no chat template.
        """
        answers = {}
        for name in responses:
            if name not in example.responses:
                known = ", ".join(example.responses)
                raise RowError(f"the objective needs the response column {name!r}; the row has {known}")
            answers[name] = example.responses[name]
        if isinstance(example.prompt, str):
            return self._render_plain(example.prompt, answers, with_images)
        return self._render_turns(list(example.prompt), answers, with_images)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt without images; the processor makes those of the others."""
        return self.opening_ids(prompt) + self._ids(self.family.complete_prompt(self.processor, prompt))

    def opening_ids(self, prompt: str) -> list[int]:
        """Returns the beginning-of-sequence token where the tokenizer itself adds it and the template did not.

        It is added to the tokens and not to the text: behind `<s>` in a text, SentencePiece-like tokenizers read the
        first word without the space that they otherwise put before it.
        """
        bos: str | None = self.tokenizer.bos_token
        return [] if bos is None or prompt.startswith(bos) else self._added_opening

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Returns the answer's tokens as they stand after the prompt.

        Tokenised together and cut at the prompt's end, which keeps the leading space that byte-pair tokenizers fold
        into the first word and the one that SentencePiece adds by itself. Where a merge would cross the boundary, the
        answer is tokenised behind a line break instead: the model has to continue from the prompt's own tokens.
        """
        complete = self.family.complete_prompt(self.processor, prompt)
        for before in (complete, "\n"):
            ids, whole = self._ids(before), self._ids(before + answer)
            if whole[: len(ids)] == ids:
                return whole[len(ids) :]
        return self._ids(answer)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _render_plain(self, prompt: str, answers: dict[str, Text], with_images: bool) -> PromptText:
        if not with_images:
            prompt = re.sub(rf"{re.escape(IMAGE_PLACEHOLDER)}\n?", "", prompt)
        elif IMAGE_PLACEHOLDER in prompt:
            prompt = prompt.replace(IMAGE_PLACEHOLDER, self._image_placeholder)
        texts = {name: self._close(plain_text(answer)) for name, answer in answers.items()}
        return PromptText(prompt, texts)

    def _render_turns(self, turns: list[Message], answers: dict[str, Text], with_images: bool) -> PromptText:
        if not with_images:
            turns = [_without_images(turn) for turn in turns]
        whole = {
            name: self._template([*turns, *_as_turns(answer)], add_generation_prompt=False)
            for name, answer in answers.items()
        }
        # Some templates open an answer differently for generation (a thinking mark): the prompt is what all share.
        prompt = _shared_start([self._template(turns, add_generation_prompt=True), *whole.values()])
        texts = {name: self._close(text[len(prompt) :]) for name, text in whole.items()}
        return PromptText(prompt, texts)

    def _template(self, turns: list[Message], *, add_generation_prompt: bool) -> str:
        if not getattr(self.processor, "chat_template", None):
            raise RowError(
                "the prompt is a list of chat turns but the model's processor has no chat template; set "
                "processor.chat_template, or give prompts as plain text with the template already applied"
            )
        dated = {}
        if asks_for_date(self.processor):
            dated["chat_template"] = self.clock.fix(default_template(self.processor))
        text: str = self.processor.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=False, **dated
        )
        return text

    @cached_property
    def _image_placeholder(self) -> str:
        return self.family.image_placeholder(self.processor)

    @cached_property
    def _added_opening(self) -> list[int]:
        bos = [self.tokenizer.bos_token_id]
        return bos if self.tokenizer("")["input_ids"][:1] == bos else []

    def _close(self, answer: str) -> str:
        """Ends the answer with the end-of-sequence token unless the template closed the turn with a special token."""
        body = answer.rstrip()
        if body.endswith(self._special_tokens):
            return answer
        eos: str = self.tokenizer.eos_token or ""
        return body + eos

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        """Without the added tokens that are ordinary text, such as the HTML tags of Gemma's vocabulary."""
        return tuple(token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)


def _as_turns(answer: Text) -> list[Message]:
    if isinstance(answer, str):
        return [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    return list(answer)


def _shared_start(texts: list[str]) -> str:
    """Returns the longest text that all begin with."""
    shortest = min(texts, key=len)
    differs = (n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1)
    return shortest[: next(differs, len(shortest))]


def _without_images(turn: Message) -> Message:
    if isinstance(turn["content"], str):
        return turn
    return {**turn, "content": [part for part in turn["content"] if part.get("type") != "image"]}
