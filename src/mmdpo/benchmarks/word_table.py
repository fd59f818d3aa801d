"""Nouns without any library: a regular expression for tokens, tables for irregular forms, and a few rules of context.

It knows no grammar beyond that. How far it agrees with NLTK on real captions is measured by a test and stated in
docs/evaluation.md.
"""

from __future__ import annotations

import re
from typing import Final

from mmdpo.benchmarks.linguistics import join_runs


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|\d+(?:[.,]\d+)*|['’]\w+|[^\w\s]")

_IRREGULAR: Final = {
    "broccolis": "broccoli",
    "calves": "calf",
    "collies": "collie",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "magpies": "magpie",
    "mice": "mouse",
    "neckties": "necktie",
    "oxen": "ox",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "vases": "vas",  # WordNet's lemmatiser does this: the plural of vase is never seen
    "ties": "tie",
    "wives": "wife",
    "wolves": "wolf",
}
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


class TableLinguistics:
    """Tokens by a regular expression, lemmas by suffix rules and tables, nouns by the word before."""

    name = "table and regular expression (no library)"

    def lemmas(self, text: str) -> list[str]:
        """Returns every token as its noun lemma."""
        return [_lemma(token) for token in _TOKEN.findall(text)]

    def nouns(self, text: str) -> list[str]:
        """Returns the lemmas of the tokens that could be nouns where they stand."""
        return [word for word in self._nouns_or_gaps(text) if word]

    def noun_runs(self, text: str) -> list[str]:
        """Returns each unbroken run of possible nouns."""
        return join_runs(self._nouns_or_gaps(text))

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
