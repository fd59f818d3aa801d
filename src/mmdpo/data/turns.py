"""What chat turns say, whether a rendered text says all of it, and which of the model's own tokens it must not hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.records import Message, RowError, Text

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a turn whose text is thought before its content is said."""

THINKING_MARK = re.compile(r"(</?think(?:ing)?>|◁/?think▷|\[/?THINK\])")
"""Templates write line breaks around these as their models were trained, whatever the row has."""


def spoken_texts(turns: Sequence[Message]) -> Iterator[str]:
    """Yields what a conversation says, in order: thoughts, the text parts of contents, names of called functions."""
    for turn in turns:
        yield from (turn[key] for key in _REASONING if isinstance(turn.get(key), str))
        yield from (part["text"] for part in turn["content"] if part.get("type") == "text")
        for call in turn.get("tool_calls") or ():
            name = (call.get("function") or call).get("name")
            if isinstance(name, str):
                yield name


def find_missing(turns: Sequence[Message], answer: Sequence[Message], prompt: str, rest: str) -> str | None:
    """Returns the first text of a conversation that is not where it belongs in what was rendered of it, else None.

    The texts of `turns` belong into `prompt`, in order (a system prompt anywhere), and those of `answer` after them,
    ending in `rest`. How much whitespace stands between two words is the template's affair; that some does is not.
    """
    before, whole = _squeeze(prompt), _squeeze(prompt + rest)
    place = 0
    for turn in turns:
        for text in spoken_texts([turn]):
            words = _squeeze(text)
            found = before.find(words, 0 if turn["role"] == "system" else place)
            if found < 0:
                return text
            if turn["role"] != "system":
                place = found + len(words)
    for text in spoken_texts(answer):
        words = _squeeze(text)
        found = whole.find(words, max(place, len(before) - len(words) + 1))
        if found < 0:
            return text
        place = found + len(words)
    return None


def is_stringified(turns: Sequence[Message], rendered: str) -> bool:
    """Returns whether a template wrote the parts of a content as a list is printed, instead of their text."""
    parts = (part for turn in turns if isinstance(turn["content"], list) for part in turn["content"])
    return any(str(part) in rendered or json.dumps(part, ensure_ascii=False) in rendered for part in parts)


Form: TypeAlias = Callable[[Message], Message]
"""Brings a turn into a form that a template may want."""


def _as_it_is(turn: Message) -> Message:
    return turn


def _with_joined_texts(turn: Message) -> Message:
    """For templates that read the first text part of a content alone."""
    parts: list[dict[str, Any]] = []
    for part in turn["content"]:
        if parts and part.get("type") == parts[-1].get("type") == "text":
            parts[-1] = {**part, "text": _join([parts[-1]["text"], part["text"]])}
        else:
            parts.append(part)
    return {**turn, "content": parts}


def _as_text_without_images(turn: Message) -> Message:
    """For templates that want text where there can be no image: of the system, or of the assistant."""
    return turn if any(part.get("type") == "image" for part in turn["content"]) else _as_text(turn)


def _as_text(turn: Message) -> Message:
    """For templates that know no parts; an image is `<image>`."""
    texts = [IMAGE_PLACEHOLDER if part.get("type") == "image" else part["text"] for part in turn["content"]]
    return {**turn, "content": _join(texts)}


FORMS: tuple[Form, ...] = (_as_it_is, _with_joined_texts, _as_text_without_images, _as_text)
"""In the order in which they are tried: the next one where a template loses a text of the one before."""


def _join(texts: Sequence[str]) -> str:
    """Joins texts, by a line break where no whitespace would separate two of them."""
    joined = ""
    for text in texts:
        seam = "" if not joined or not text or joined[-1].isspace() or text[0].isspace() else "\n"
        joined += seam + text
    return joined


def _squeeze(text: str) -> str:
    return " ".join(THINKING_MARK.sub(r" \1 ", text).split())


_REGION = re.compile(r"</?\|?/?(object_ref|ref|box|quad|point|loc|seg)\w*\|?>")
"""Special tokens that stand in answers by design, as those of thoughts do: they name regions of a picture."""

_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class SpecialTokens:
    """What a row's text must not hold, since the tokenizer would read a mark instead of words."""

    images: re.Pattern[str]
    """What the processor replaces by pictures, videos and sounds."""
    controls: re.Pattern[str]
    """Those, and every special token but marks of regions and of thoughts."""
    last: re.Pattern[str]
    """Such a token at the very end of a text."""

    @classmethod
    def of(cls, processor: Any) -> SpecialTokens:
        """Asks a processor and its tokenizer."""
        tokenizer = processor.tokenizer
        named = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio"))
        images = {token for token in named if isinstance(token, str)}
        # Without the added tokens that are ordinary text, such as the HTML tags of Gemma's vocabulary.
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        said = (_REGION, THINKING_MARK)
        controls = {t for t in images | special if t.strip() and not any(mark.fullmatch(t) for mark in said)}
        last = re.compile(rf"(?:{_any_of(controls).pattern})\Z")
        return cls(_any_of(images), _any_of(controls), last)

    def end(self, text: str) -> bool:
        """Returns whether a text ends with a special token, whitespace aside."""
        return self.last.search(text.rstrip()) is not None

    def check(self, prompt: Text, answers: Mapping[str, Text]) -> None:
        """Raises RowError, naming column and token, for a text that has a special token in it.

        A plain prompt has the chat template applied, whose marks are meant: there only an image must be written as
        `<image>`. A plain answer may end with special tokens.
        """
        if isinstance(prompt, str):
            self._refuse(self.images, prompt.replace(IMAGE_PLACEHOLDER, ""), "prompt")
            answers = {
                name: self._without_end(answer) if isinstance(answer, str) else answer
                for name, answer in answers.items()
            }
        else:
            answers = {"prompt": prompt, **answers}
        for name, answer in answers.items():
            for text in [answer] if isinstance(answer, str) else spoken_texts(answer):
                self._refuse(self.controls, text, name)

    def _without_end(self, text: str) -> str:
        text = text.rstrip()
        while found := self.last.search(text):
            text = text[: found.start()].rstrip()
        return text

    def _refuse(self, tokens: re.Pattern[str], text: str, column: str) -> None:
        found = tokens.search(text)
        if found:
            raise RowError(
                f"`{column}` has the model's own token {found[0]} in its text, which would be read as a mark and not "
                "as words: write it differently, or remove the row"
            )


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else _NOTHING
