"""The tokens that a model reads as marks, and their refusal inside the text of a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.data.turns import THINKING_MARK, spoken_texts
from mmdpo.records import RowError, Text

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
        controls = {token for token in images | special if token.strip() and not _is_said(token)}
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


def _is_said(token: str) -> bool:
    return bool(_REGION.fullmatch(token) or THINKING_MARK.fullmatch(token))


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else _NOTHING
