"""Words of an answer: tokens, noun lemmas, and which words are nouns.

Two sources, and every result names the one that made it. `NltkLinguistics` is what the official scorers call: NLTK's
tokeniser, perceptron tagger and WordNet lemmatiser. `TableLinguistics` needs nothing installed and knows no grammar
beyond a few rules of context. How far it agrees with NLTK on real captions is measured by a test and stated in
docs/evaluation.md.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from importlib import import_module
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np

INSTALL = 'pip install "mmdpo[eval]" && python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet'
"""The one command that brings NLTK and its data."""
_NOT_CALLED: Final = ("sklearn", "scipy", "pandas", "matplotlib")
_DATA = ("tokenizers/punkt_tab/english", "taggers/averaged_perceptron_tagger_eng", "corpora/wordnet")
_PLAIN_SENTENCE: Final = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*(?:,? [A-Za-z]+(?:-[A-Za-z]+)*)*\.?")
"""Words of letters, with single hyphens, spaces, commas and a last full stop: little for a tokeniser to decide."""
_PLAIN_TOKEN: Final = re.compile(r"[A-Za-z-]+|[,.]")
_CONTRACTION: Final = re.compile("cannot|gimme|gonna|gotta|lemme|wanna|whadd|whatcha", re.IGNORECASE)
"""What NLTK takes apart within a word of letters."""


def join_runs(words: Sequence[str]) -> list[str]:
    """Joins neighbouring words by a space; an empty word ends a run and is left out."""
    return [" ".join(run) for is_run, run in groupby(words, bool) if is_run]


class _NounsByTag(ABC):
    """What a source says of nouns, from the tokens that are some."""

    def nouns(self, text: str) -> list[str]:
        """Returns the lemmas of the tokens that are nouns where they stand."""
        return [word for word in self._nouns_or_gaps(text) if word]

    def noun_runs(self, text: str) -> list[str]:
        """Returns each unbroken run of nouns."""
        return join_runs(self._nouns_or_gaps(text))

    @abstractmethod
    def _nouns_or_gaps(self, text: str) -> list[str]:
        """Returns the lemma of each token that is a noun, an empty text for each other one."""


class NltkLinguistics(_NounsByTag):
    """NLTK's tokeniser, tagger and WordNet lemmatiser, as AMBER's and RLHF-V's scorers call them."""

    def __init__(self, data_dir: str | Path | None = None) -> None:
        """Loads NLTK; `data_dir` is a folder laid out as NLTK's own (`corpora/`, `taggers/`, `tokenizers/`).

        Raises ImportError without NLTK, FileNotFoundError where `data_dir`, or NLTK's data, is not there.
        """
        try:
            self._nltk: Any = _import_nltk()
        except ImportError as error:
            raise ImportError(f"the official scorers use NLTK, which is not installed: {INSTALL}") from error
        if data_dir is not None:
            if not Path(data_dir).is_dir():
                raise FileNotFoundError(f"{data_dir}: no such folder of NLTK data")
            if str(data_dir) not in self._nltk.data.path:
                self._nltk.data.path.insert(0, str(data_dir))
        for resource in _DATA:
            self._find(resource)
        self._lemma = cache(_make_lemmatizer(self._nltk))
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
        return [self._lemma(token) for token in self._tokens(text)]

    def _tokens(self, text: str) -> list[str]:
        """Returns the tokens of `nltk.word_tokenize`, those of plain sentences by one pattern instead of its thirty."""
        tokens: list[str] = []
        for sentence in self._nltk.sent_tokenize(text):
            if _PLAIN_SENTENCE.fullmatch(sentence) and not _CONTRACTION.search(sentence):
                tokens += _PLAIN_TOKEN.findall(sentence)
            else:
                tokens += self._nltk.word_tokenize(sentence, preserve_line=True)
        return tokens

    @cached_property
    def _tagger(self) -> Any:
        """The tagger of `nltk.pos_tag`, which predicts faster."""
        tagger = self._nltk.tag.PerceptronTagger()
        tagger.model = _DensePerceptron(tagger.model)
        return tagger

    def _nouns_or_gaps(self, text: str) -> list[str]:
        tagged = self._tagger.tag(self._tokens(text))
        return [self._lemma(token) if tag.startswith("NN") else "" for token, tag in tagged]


def _import_nltk() -> Any:
    """Imports NLTK without what it would import for classifiers and statistics that nobody here calls.

    That is scikit-learn, and with it scipy and pandas: seven eighths of the time. NLTK does without them where they
    are not installed.
    """
    hidden = [name for name in _NOT_CALLED if "nltk" not in sys.modules and name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))
    try:
        return import_module("nltk")
    finally:
        for name in hidden:
            del modules[name]


def _make_lemmatizer(nltk: Any) -> Callable[[str], str]:
    """Returns `WordNetLemmatizer().lemmatize` for nouns, which reads two files of WordNet instead of all of them.

    WordNet's rule: an irregular form has its own lemmas; of any other, endings are replaced again and again until
    something is a noun. Of several nouns the first of the shortest is taken, and a word that leads to none is its own.
    """
    index, exceptions = (
        nltk.data.find(f"corpora/wordnet/{name}").open().read().decode() for name in ("index.noun", "noun.exc")
    )
    nouns = set(re.findall(r"^(\S+) n ", index, re.MULTILINE))
    irregular = {form: lemmas for form, *lemmas in filter(None, map(str.split, exceptions.splitlines()))}
    endings = nltk.corpus.reader.WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS["n"]

    def replace_endings(forms: list[str]) -> list[str]:
        return [form[: -len(old)] + new for form in forms for old, new in endings if form.endswith(old)]

    def lemmatize(word: str) -> str:
        if word in irregular:
            forms, further = [word, *irregular[word]], list[str]()
        else:
            further = replace_endings([word])
            forms = [word, *further]
        while True:
            found = [form for form in forms if form in nouns]
            if found or not further:
                return min(found, key=len, default=word)
            forms = further = replace_endings(further)

    return lemmatize


class _DensePerceptron:
    """The tagger's model with its weights as one matrix: predicts what `AveragedPerceptron` does, ten times faster.

    Weights are added in the order of the features, as there, so that sums are equal to the bit.
    """

    def __init__(self, model: Any) -> None:
        # Of classes with equal scores the last in the alphabet is taken, and argmax takes the first.
        self._model, self._classes = model, sorted(model.classes, reverse=True)
        column = {name: place for place, name in enumerate(self._classes)}
        self._row = {feature: place for place, feature in enumerate(model.weights, start=1)}
        self._weights = np.zeros((1 + len(self._row), len(column)))  # the first is of all features that are not known
        for place, weights in enumerate(model.weights.values(), start=1):
            self._weights[place, [column[name] for name in weights]] = list(weights.values())

    @property
    def classes(self) -> Any:
        """The tags."""
        return self._model.classes

    def predict(self, features: Mapping[str, int], return_conf: bool = False) -> tuple[str, float | None]:
        """Returns the tag of a token with these features, and its confidence where that is asked for."""
        if return_conf or sum(features.values()) != len(features):  # a feature counts more than once
            found: tuple[str, float | None] = self._model.predict(features, return_conf)
            return found
        rows = list(map(self._row.get, features, repeat(0)))
        scores = np.add.reduce(self._weights.take(rows, axis=0), axis=0)
        return self._classes[int(scores.argmax())], None


# -- without any library ----------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|\d+(?:[.,]\d+)*|['’]\w+|[^\w\s]")

_FORMS: Final = """
    broccolis broccoli, calves calf, collies collie, children child, feet foot, geese goose, halves half, knives knife,
    leaves leaf, loaves loaf, magpies magpie, mice mouse, neckties necktie, oxen ox, scarves scarf, shelves shelf,
    teeth tooth, vases vas, ties tie, wives wife, wolves wolf
"""
"""Plural and singular. WordNet makes "vas" of vases: the plural of vase is never seen."""
_IRREGULAR: Final = dict(form.split() for form in _FORMS.split(","))
# WordNet's lemmatiser takes the first of the shortest lemmas, and "men" is one, as short as "man".
_NO_PLURALS: Final = _words(
    """
    men shorts clothes news series species tennis canvas lens gas atlas pants jeans this is his was has as
    various always perhaps besides christmas scissors headphones
    """
)
# WordNet does not know the singular, so the official scorers never see these plurals.
_UNKNOWN_PLURALS: Final = _words(
    """
    bedsheets bikers bluejays brindles cooktops coworkers e-books ebooks firetrucks hairdryers iPhones
    kiwifruits longboards macbooks netbooks paddleboats paragliders pitbulls riverboats sailboards
    sanitizers shortboards skimboards smartphones stovetops streetlamps teddybears air-conditionings
    """
)
_UNCHANGED: Final = _NO_PLURALS | _UNKNOWN_PLURALS
_SIBILANT_PLURAL: Final = re.compile(r"(?:ss|x|zz|[cs]h|bus|o)es$")
_KEEPS_E: Final = frozenset(["axes", "caches", "aches", "moustaches", "shoes", "toes", "canoes", "horseshoes"])

_DETERMINERS: Final = _words(
    """
    a an the this that these those his her its their my your our some several many few two three four five
    six another each every no any
    """
)
_BEFORE_VERBS: Final = _words(
    """
    to can could may might will would should must he she it they we i you who which is are was were be being
    been not
    """
)
_ADJECTIVES: Final = frozenset(["hot", "potted"])
_ALSO_VERBS: Final = _words(
    """
    watch stand park fly ski surf play show leave fence cook drink dress face place plant ride rock sign
    skate smoke sail snow water wave book bear bridge brush cover dish fish light mirror rest ring seat
    shower shop
    """
)


class TableLinguistics(_NounsByTag):
    """Tokens by a regular expression, lemmas by suffix rules and tables, nouns by the word before."""

    name = "table and regular expression (no library)"

    def lemmas(self, text: str) -> list[str]:
        """Returns every token as its noun lemma."""
        return [_lemma(token) for token in _TOKEN.findall(text)]

    def _nouns_or_gaps(self, text: str) -> list[str]:
        tokens = _TOKEN.findall(text)
        return [
            _lemma(token) if _may_be_noun(token, before.lower()) else ""
            for before, token in zip(["", *tokens], tokens, strict=False)
        ]


def _lemma(token: str) -> str:
    """Returns the singular of a plural; a word that ends like none comes back as it is."""
    if token in _IRREGULAR:
        return _IRREGULAR[token]
    if len(token) < 4 or not token.endswith(("s", "men")) or token in _UNCHANGED or token.endswith(("ss", "us")):
        return token
    if token.endswith("men"):
        return f"{token[:-2]}an"
    if token.endswith("ies"):
        return f"{token[:-3]}y"
    if _SIBILANT_PLURAL.search(token) and token not in _KEEPS_E:
        return token[:-2]
    return token[:-1]


def _may_be_noun(token: str, before: str) -> bool:
    word = _lemma(token)
    if not token[0].isalpha() or word in _DETERMINERS or word in _BEFORE_VERBS or word in _ADJECTIVES:
        return False
    return not (word in _ALSO_VERBS and before in _BEFORE_VERBS)
