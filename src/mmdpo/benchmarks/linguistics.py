"""Words of an answer: tokens, noun lemmas, and which words are nouns.

Two sources, and every result names the one that made it. `NltkLinguistics` is what the official scorers call: NLTK's
tokeniser, perceptron tagger and WordNet lemmatiser. `TableLinguistics` (in `word_table.py`) needs nothing installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

INSTALL = 'pip install "mmdpo[eval]" && python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet'
"""The one command that brings NLTK and its data."""
_DATA = ("tokenizers/punkt_tab/english", "taggers/averaged_perceptron_tagger_eng", "corpora/wordnet")


class Linguistics(Protocol):
    """What the scorers ask of a language tool."""

    @property
    def name(self) -> str:
        """What produced the words, with its version: recorded in every result."""
        ...

    def lemmas(self, text: str) -> list[str]:
        """Returns every token of `text` as its noun lemma, in order, punctuation included; case is kept."""
        ...

    def nouns(self, text: str) -> list[str]:
        """Returns the lemmas of the tokens that are nouns in their sentence, in order; case is kept."""
        ...

    def noun_runs(self, text: str) -> list[str]:
        """Returns each unbroken run of nouns as its lemmas joined by a space."""
        ...


class NltkLinguistics:
    """NLTK's tokeniser, tagger and WordNet lemmatiser, as AMBER's and RLHF-V's scorers call them."""

    def __init__(self, data_dir: str | Path | None = None) -> None:
        """Loads NLTK; `data_dir` is a folder laid out as NLTK's own (`corpora/`, `taggers/`, `tokenizers/`).

        Raises:
            ImportError: NLTK is not installed.
            FileNotFoundError: `data_dir`, or NLTK's data, is not there; the message says how to get it.
        """
        try:
            self._nltk: Any = import_module("nltk")
        except ImportError as error:
            raise ImportError(f"the official scorers use NLTK, which is not installed: {INSTALL}") from error
        if data_dir is not None:
            if not Path(data_dir).is_dir():
                raise FileNotFoundError(f"{data_dir}: no such folder of NLTK data")
            if str(data_dir) not in self._nltk.data.path:
                self._nltk.data.path.insert(0, str(data_dir))
        for resource in _DATA:
            self._find(resource)
        self._lemmatiser = self._nltk.stem.WordNetLemmatizer()
        self._known: dict[str, str] = {}
        self.name = f"NLTK {self._nltk.__version__} (punkt_tab, averaged_perceptron_tagger_eng, WordNet)"

    def _find(self, resource: str) -> None:
        for spelling in (resource, f"{resource}.zip"):
            try:
                self._nltk.data.find(spelling)
            except LookupError:
                continue
            return
        places = ", ".join(map(str, self._nltk.data.path))
        raise FileNotFoundError(
            f"NLTK's {resource} is in none of {places}: {INSTALL}, or name the folder (--nltk_data)"
        )

    def lemmas(self, text: str) -> list[str]:
        """Returns every token as its noun lemma."""
        return [self._lemma(token) for token in self._nltk.word_tokenize(text)]

    def nouns(self, text: str) -> list[str]:
        """Returns the lemmas of the tokens whose tag starts with NN."""
        tagged = self._nltk.pos_tag(self._nltk.word_tokenize(text))
        return [self._lemma(token) for token, tag in tagged if tag.startswith("NN")]

    def noun_runs(self, text: str) -> list[str]:
        """Returns each unbroken run of tokens whose tag starts with NN."""
        tagged = self._nltk.pos_tag(self._nltk.word_tokenize(text))
        return join_runs([self._lemma(token) if tag.startswith("NN") else "" for token, tag in tagged])

    def _lemma(self, token: str) -> str:
        if token not in self._known:
            self._known[token] = self._lemmatiser.lemmatize(token)
        return self._known[token]


def join_runs(words: Sequence[str]) -> list[str]:
    """Joins neighbouring words by a space; an empty word ends a run and is left out."""
    runs: list[str] = []
    before = ""
    for word in words:
        if word and before:
            runs[-1] += f" {word}"
        elif word:
            runs.append(word)
        before = word
    return runs
