"""From an example to the text and the tokens of its prompt and answers, with the boundary between them exact."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import BatchEncoding

from mmdpo.data.clock import Clock, asks_for_date, default_template
from mmdpo.data.messages import IMAGE_PLACEHOLDER, count_placeholders, plain_text, read_answer
from mmdpo.data.turns import FORMS, Form, SpecialTokens, find_missing, is_stringified
from mmdpo.models.families import Family
from mmdpo.records import Message, PreferenceExample, RowError, Text
from mmdpo.texts import Mark

_ANY_ANSWER: Message = {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}
"""Shows where a template lets answers begin, whatever the row's own answers begin with."""


_REMEMBERED = 64
"""Texts whose tokens a renderer keeps."""


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
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False, compare=False)
    """Tokens of the last texts: a prompt's end comes back with each of its answers, and a text when it is cut."""
    _cuts: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    """Of special tokens that a prompt's end may begin with."""

    @property
    def tokenizer(self) -> Any:
        """The text part of the processor."""
        return self.processor.tokenizer

    def render(self, example: PreferenceExample, responses: Iterable[str], *, with_images: bool) -> PromptText:
        """Returns the texts of an example's prompt, with its images or with the placeholders deleted, and answers.

        Raises RowError where the row lacks a response; a text has one of the tokenizer's special tokens in it; there
        are chat turns and no chat template; the template refuses the turns, or leaves one of their texts out.
        """
        answers = {}
        for name in responses:
            if name not in example.responses:
                known = ", ".join(example.responses)
                raise RowError(f"the objective needs the response column {name!r}; the row has {known}")
            answers[name] = example.responses[name]
        self._special_tokens.check(example.prompt, answers)
        if isinstance(example.prompt, str):
            prompt, texts = example.prompt, {name: self._close(plain_text(answer)) for name, answer in answers.items()}
            if not with_images:
                return PromptText(re.sub(rf"{re.escape(IMAGE_PLACEHOLDER)}\n?", "", prompt), texts)
            if IMAGE_PLACEHOLDER in prompt:  # asked for where it is needed: not every processor names an image token
                prompt = prompt.replace(IMAGE_PLACEHOLDER, self._image_placeholder)
            return PromptText(prompt, texts)
        return self._render_turns(list(example.prompt), answers, with_images)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Returns the tokens of a prompt without images; the processor makes those of the others."""
        return self.opening_ids(prompt) + self._ids(self.family.complete_prompt(self.processor, prompt))

    def opening_ids(self, prompt: str) -> list[int]:
        """Returns the beginning-of-sequence token where the tokenizer itself adds it and the template did not.

        It is added to the tokens and not to the text: after `<s>` in a text, SentencePiece-like tokenizers read the
        first word without the space that they otherwise put before it.
        """
        bos: str | None = self.tokenizer.bos_token
        return [] if bos is None or prompt.startswith(bos) else self._added_opening

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Returns the answer's tokens as they stand after the prompt.

        Tokenised together and cut at the prompt's end, which keeps the leading space that byte-pair tokenizers fold
        into the first word and the one that SentencePiece adds by itself. Where a merge would cross the boundary, the
        answer is tokenised after a line break instead: the model has to continue from the prompt's own tokens.
        """
        before = self._text_before(prompt, answer)
        return self._ids(before + answer)[len(self._ids(before)) :]

    def answer_marks(self, prompt: str, answer: str) -> list[Mark]:
        """Returns where each of `answer_ids` stands in the answer: start and end in characters.

        Tokens that are bytes of one character have its place, and one that says nothing of the answer an empty one.
        A tokenizer in Python knows no places: what a token is read as is looked for from the end of the one before.
        """
        before, ids = self._text_before(prompt, answer), self.answer_ids(prompt, answer)
        if not self.tokenizer.is_fast:
            return _find_in_order([self.tokenizer.decode([each]) for each in ids], answer)
        encoded = self.tokenizer(before + answer, add_special_tokens=False, return_offsets_mapping=True)
        marks = encoded["offset_mapping"][len(self._ids(before)) :]
        return [(max(0, start - len(before)), max(0, end - len(before))) for start, end in marks]

    def _text_before(self, prompt: str, answer: str) -> str:
        """Returns the text in front of an answer with which it is tokenised, and which its tokens leave whole."""
        complete = self.family.complete_prompt(self.processor, prompt)
        candidates = (self._end_of(complete), "\n", "")
        return next(before for before in candidates if _begins(self._ids(before + answer), self._ids(before)))

    def _end_of(self, prompt: str) -> str:
        """Returns what of a prompt decides how a text after it is tokenised: its last special token and the rest.

        Tokenizers cut a text at special tokens before anything else, and never merge across one. So the prompt is
        tokenised once, for all of its answers, and only its end again with each.
        """
        found = [*self._special_tokens.controls.finditer(prompt)]
        return prompt[found[-1].start() :] if found and self._is_cut(found[-1][0]) else prompt

    def _is_cut(self, token: str) -> bool:
        """Returns whether a special token and what follows it are tokenised the same whatever stands before."""
        if token not in self._cuts:
            before = "What is it?"
            texts = (f"{token}{text}" for text in ("Yes, it is.", " yes\n", "\n\nYes"))
            self._cuts[token] = all(
                self._tokenise(before + text) == self._tokenise(before) + self._tokenise(text) for text in texts
            )
        return self._cuts[token]

    def _ids(self, text: str) -> list[int]:
        """Returns the tokens of a text, from memory where it was among the last ones: nobody changes them."""
        ids = self._known.get(text)
        if ids is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            ids = self._known[text] = self._tokenise(text)
        return ids

    def _tokenise(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _render_turns(self, turns: list[Message], answers: dict[str, Text], with_images: bool) -> PromptText:
        if not with_images:
            turns = [_without_images(turn) for turn in turns]
        whole = {name: [*turns, *read_answer(answer, column=name)] for name, answer in answers.items()}
        problems = []
        # What a template loses of parts, it may say of a whole text.
        for form in FORMS:
            try:
                return self._render_form(turns, whole, form)
            except RowError as error:
                problems.append(error)
        raise problems[0]

    def _render_form(self, turns: list[Message], whole: Mapping[str, list[Message]], form: Form) -> PromptText:
        """Renders the prompt's turns, and conversations that continue them by an answer."""
        opened = self._template(turns, form, add_generation_prompt=True)
        texts = {name: self._template(said, form, add_generation_prompt=False) for name, said in whole.items()}
        prompt, end = opened, self._end_of(opened)
        ids, begin = self._ids(end), len(opened) - len(end)
        is_cut = all(t.startswith(opened) and _begins(self._ids(t[begin:]), ids) for t in texts.values())
        if not is_cut:  # at tokens
            any_answer = self._template([*turns, _ANY_ANSWER], form, add_generation_prompt=False)
            prompt = self._cut_prompt(opened, any_answer, texts.values())
        for name, said in (whole or {"prompt": turns}).items():
            missing = find_missing(turns, said[len(turns) :], prompt, texts.get(name, prompt)[len(prompt) :])
            if missing is not None:
                raise RowError(
                    f"the model's chat template leaves a text out, or changes it: {missing!r:.200} is not where it "
                    f"belongs in what the model would read (prompt and `{name}`); change the turns, or name another "
                    "template (chat_template)"
                )
        images, token = count_placeholders(tuple(turns)), getattr(self.processor, "image_token", None)
        if isinstance(token, str) and images != prompt.count(token):
            raise RowError(
                f"the model's chat template writes {prompt.count(token)} places for {images} images: move the images "
                "into turns of the user, or name another template (chat_template)"
            )
        return PromptText(prompt, {name: self._close(text[len(prompt) :]) for name, text in texts.items()})

    def _cut_prompt(self, opened: str, any_answer: str, whole: Iterable[str]) -> str:
        """Returns the longest text that generation and all answers begin with, up to a token of the whole.

        Some templates open an answer differently for generation (a thinking mark). There the prompt ends before the
        mark, also where all answers happen to begin with its first letter. Others close the mark at once where there
        is nothing to think, and what generation ends with becomes half of a token. Where it is the answer's own first
        letters that would make a token with the prompt's last ones, the prompt stays whole.
        """
        shared = _shared_start([opened, *whole])
        if shared != opened:
            shared = _shared_start([shared, any_answer])
        if not any_answer.startswith(shared):
            return shared  # thoughts of the row's own follow where another answer has none
        tokens = self._ids(any_answer)
        ends = (end for end in range(len(shared), 0, -1) if _begins(tokens, self._ids(shared[:end])))
        return shared[: next(ends, len(shared))]

    def _template(self, turns: list[Message], form: Form, *, add_generation_prompt: bool) -> str:
        if not getattr(self.processor, "chat_template", None):
            raise RowError(
                "the prompt is a list of chat turns but the model's processor has no chat template; set "
                "processor.chat_template, or give prompts as plain text with the template already applied"
            )
        dated = {}
        if asks_for_date(self.processor):
            dated["chat_template"] = self.clock.fix(default_template(self.processor))
        try:
            turns = [self._write_images(form(turn)) for turn in turns]
            text: str = self.processor.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False, **dated
            )
        # A template is somebody's program: it refuses turns by its own errors, or fails where it wants another form.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RowError(
                f"the model's chat template cannot render these turns ({error}): change them, or name another template "
                "(chat_template)"
            ) from error
        if is_stringified(turns, text):
            raise RowError(
                "the model's chat template writes the list of parts instead of their text: name another template "
                "(chat_template)"
            )
        return text

    def _write_images(self, turn: Message) -> Message:
        """Puts the model's own mark where a form has written `<image>` into text."""
        if not isinstance(turn["content"], str) or IMAGE_PLACEHOLDER not in turn["content"]:
            return turn
        return {**turn, "content": turn["content"].replace(IMAGE_PLACEHOLDER, self._image_placeholder)}

    @cached_property
    def _image_placeholder(self) -> str:
        return self.family.image_placeholder(self.processor)

    @cached_property
    def _added_opening(self) -> list[int]:
        bos = [self.tokenizer.bos_token_id]
        return bos if self.tokenizer("")["input_ids"][:1] == bos else []

    def _close(self, answer: str) -> str:
        """Ends the answer with the end-of-sequence token unless the template closed the turn with a special token."""
        if self._special_tokens.end(answer):
            return answer
        eos: str = self.tokenizer.eos_token or ""
        return answer.rstrip() + eos

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens.of(self.processor)


@contextmanager
def each_text_once(processor: Any) -> Iterator[None]:
    """Within it, a processor that is given a text several times tokenises it once: prompts under several images."""
    tokenizer = processor.tokenizer
    processor.tokenizer = _Once(tokenizer)
    try:
        yield
    finally:
        processor.tokenizer = tokenizer


@dataclass(frozen=True)
class _Once:
    """A tokenizer that is asked for each of the texts of a list once; in all else it is the one that it stands for."""

    stands_for: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stands_for, name)

    def __call__(self, text: Any = None, **options: Any) -> Any:
        are_texts = isinstance(text, list) and all(isinstance(each, str) for each in text)
        distinct = {each: place for place, each in enumerate(dict.fromkeys(text))} if are_texts else {}
        if len(distinct) in (0, len(text)):
            return self.stands_for(text, **options)
        encoded, order = self.stands_for(list(distinct), **options), [distinct[each] for each in text]
        repeated = {
            name: rows[torch.tensor(order)] if isinstance(rows, Tensor) else [rows[place] for place in order]
            for name, rows in encoded.items()
        }
        encodings = encoded.encodings and [encoded.encodings[place] for place in order]
        return BatchEncoding(repeated, encodings)


def _find_in_order(pieces: Iterable[str], text: str) -> list[Mark]:
    """Returns where pieces of a text follow each other in it; one that is not found is empty, where the last ended."""
    marks, end = list[Mark](), 0
    for piece in pieces:
        words = piece.strip()
        start = text.find(words, end) if words else -1
        if start >= 0 and not text[end:start].strip():  # nothing but blanks is passed over
            marks.append((start, start + len(words)))
            end = start + len(words)
        else:
            marks.append((end, end))
    return marks


def _begins(tokens: list[int], first: list[int]) -> bool:
    return tokens[: len(first)] == first


def _shared_start(texts: list[str]) -> str:
    """Returns the longest text that all begin with."""
    shortest = min(texts, key=len)
    differs = (n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1)
    return shortest[: next(differs, len(shortest))]


def _without_images(turn: Message) -> Message:
    if isinstance(turn["content"], str):
        return turn
    return {**turn, "content": [part for part in turn["content"] if part.get("type") != "image"]}
