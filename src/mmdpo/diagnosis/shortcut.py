"""The shortcut in the data: how well a rule that reads only the text tells chosen from rejected.

A pairwise logistic regression: the features of the chosen answer minus those of the rejected one, no intercept, tested
on prompts that it was not trained on. Where it is right, a model can learn the preference without ever looking.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmdpo.benchmarks.stats import note_few
from mmdpo.diagnosis.estimates import estimate, ratio
from mmdpo.records import CHOSEN, REJECTED

FOLDS = 5
MOST_FEATURES = 20_000
LEAST_PAIRS = 2
"""A word or pair of words counts if so many answers have it."""
SHOWN_FEATURES = 15
TOKEN = re.compile(r"\w+|[^\w\s]")
FIRST_WORDS = 3
WORDS: Mapping[str, str] = {
    "hedging words": "may might maybe perhaps possibly likely appear appears seem seems could probably",
    "polite words": "sure please certainly sorry hope help happy glad welcome thank thanks",
    "first person": "i i'm my we our",
}
"""Words that speak for a style, in lower case."""
STYLE_WORDS: Mapping[str, str] = {
    **{name: rf"\b({words.replace(' ', '|')})\b" for name, words in WORDS.items()},
    "list items": r"(?m)^\s*([-*•]|\d+[.)])\s",
    "numbers": r"\d+",
    "commas": ",",
    "exclamation marks": "!",
    "question marks": r"\?",
    "line breaks": "\n",
}
"""Counts of style: name → what is counted."""

RULES: Mapping[str, str] = {
    "text": "length, style and words together",
    "length": "length alone",
    "first_words": f"the first {FIRST_WORDS} words alone",
}


@dataclass(frozen=True)
class TextPair:
    """A pair without its image."""

    id: str
    prompt: str
    image: str
    """Name of the image, to know which pairs share one."""
    chosen: str
    rejected: str


Differ: TypeAlias = Callable[["NDArray[np.intp]"], Any]
"""Returns the features of pairs, by their places, chosen minus rejected: a sparse matrix with one row per pair."""


def measure_shortcut(
    pairs: Sequence[TextPair], *, resamples: int, seed: int = 0, with_features: bool = True
) -> dict[str, Any]:
    """Returns what text-only rules achieve on pairs, for JSON; `scores` holds each pair's held-out score.

    `with_features` also tells what moves scores most.

    Raises ImportError without scikit-learn.
    """
    groups, grouped_by = _group(pairs)
    count = len(set(groups))
    what = f"distinct groups ({grouped_by})"
    if count < FOLDS:
        note = f"{count} {what}: too few to train on some and test on others, which needs {FOLDS}"
        return {"rules": {}, "features": [], "notes": [note], "grouped_by": grouped_by, "scores": []}
    scores = {rule: _cross_validate(pairs, groups, rule, seed) for rule in RULES}
    return {
        "rules": _summarise_rules(pairs, groups, scores, resamples, seed),
        "features": _find_features(pairs) if with_features else [],
        "notes": note_few(groups, what),
        "grouped_by": grouped_by,
        "scores": scores["text"].tolist(),
    }


def _group(pairs: Sequence[TextPair]) -> tuple[list[str], str]:
    """Returns what pairs are kept together by, so that no prompt stands on both sides of a split.

    Where one question is asked of most images ("describe it"), a prompt is the question and its image.
    """
    most = Counter(pair.prompt for pair in pairs).most_common(1)[0][1]
    if most <= len(pairs) / FOLDS:
        return [pair.prompt for pair in pairs], "prompt"
    return [f"{pair.prompt}\x1f{pair.image}" for pair in pairs], "prompt and image"


def _cross_validate(pairs: Sequence[TextPair], groups: Sequence[str], rule: str, seed: int) -> NDArray[np.float64]:
    """Returns the score of every pair by a classifier that has not seen its group; above 0 is right."""
    folds = _sklearn("model_selection").GroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores, features = np.zeros(len(pairs)), _Features(pairs, rule)
    for train, test in folds.split(pairs, groups=groups):
        _, differ = features.learn(train)
        scores[test] = differ(test) @ _fit(differ(train))
    return scores


def _fit(differences: Any) -> NDArray[np.float64]:
    """Returns the weight of each feature."""
    from scipy import sparse

    model = _sklearn("linear_model").LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000)
    # Each pair stands in both orders, so that neither answer is first.
    labels = np.repeat([1, 0], differences.shape[0])
    weights: NDArray[np.float64] = model.fit(sparse.vstack([differences, -differences]), labels).coef_[0]
    return weights


class _Features:
    """What a rule reads of answers, counted once. Which words count, and the scales, are learnt from some of them."""

    def __init__(self, pairs: Sequence[TextPair], rule: str) -> None:
        patterns = [TOKEN.pattern, *(STYLE_WORDS.values() if rule == "text" else ())]
        compiled = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
        self._counts = np.array([_count(pair.chosen, compiled) - _count(pair.rejected, compiled) for pair in pairs])
        self._has_styles = rule == "text"
        self._words = None if rule == "length" else _find_words(pairs, FIRST_WORDS if rule == "first_words" else None)

    def learn(self, places: NDArray[np.intp]) -> tuple[list[str], Differ]:
        """Returns the names of the features, and what computes them; vocabulary and scales come from these pairs."""
        from scipy import sparse

        spread = self._counts[places].std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        if self._words is None or not (kept := self._choose_words(places)).size:  # no word is in two answers
            return ["words"], lambda some: sparse.csr_matrix(self._counts[some, :1] / scale[:1])
        names, chosen, rejected = self._words

        def differ(some: NDArray[np.intp]) -> Any:
            words = (chosen[some][:, kept] - rejected[some][:, kept]).astype(np.float64)
            if not self._has_styles:
                return words.tocsr()
            return sparse.hstack([sparse.csr_matrix(self._counts[some] / scale), words]).tocsr()

        words = [f"“{names[place]}”" for place in kept]
        return ["words", *STYLE_WORDS, *words] if self._has_styles else words, differ

    def _choose_words(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns the words that enough answers have, no more of them than the most frequent ones."""
        assert self._words is not None
        _, chosen, rejected = self._words
        answers = np.asarray(chosen[places].sum(axis=0) + rejected[places].sum(axis=0)).ravel()
        frequent = np.flatnonzero(answers >= min(LEAST_PAIRS, 2 * len(places)))
        return np.sort(frequent[(-answers[frequent]).argsort()[:MOST_FEATURES]])


def _find_words(pairs: Sequence[TextPair], first: int | None) -> tuple[list[str], Any, Any] | None:
    """Returns words and pairs of words of answers, of their first few words where so many are given; None without one.

    Beside the names, two sparse matrices: which of them the chosen and the rejected answer of each pair have.
    """

    def clip(text: str) -> str:
        return " ".join(TOKEN.findall(text)[:first]) if first else text

    vectorizer = _sklearn("feature_extraction.text").CountVectorizer(
        ngram_range=(1, 2), token_pattern=TOKEN.pattern, lowercase=True, binary=True
    )
    try:
        found = vectorizer.fit_transform(
            clip(text) for side in (CHOSEN, REJECTED) for text in map(attrgetter(side), pairs)
        )
    except ValueError:
        return None
    found.sort_indices()
    return list(vectorizer.get_feature_names_out()), found[: len(pairs)], found[len(pairs) :]


def _count(text: str, patterns: Sequence[re.Pattern[str]]) -> NDArray[np.float64]:
    return np.log1p([len(pattern.findall(text)) for pattern in patterns])


def _summarise_rules(
    pairs: Sequence[TextPair],
    groups: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    right = {rule: np.where(values == 0, 0.5, values > 0).tolist() for rule, values in scores.items()}
    counts = [
        (pair.id, group, {"n": 1.0, **{rule: float(values[place]) for rule, values in right.items()}})
        for place, (pair, group) in enumerate(zip(pairs, groups, strict=True))
    ]
    found = estimate(counts, {ratio(rule, rule): label for rule, label in RULES.items()}, resamples, seed)
    renamed = {"label": "label", "accuracy": "value", "low": "low", "high": "high", "n": "n"}
    return {rule: {name: of[key] for name, key in renamed.items()} for rule, of in found.items()}


def _find_features(pairs: Sequence[TextPair]) -> list[dict[str, Any]]:
    """Returns what moves scores most, trained on all pairs: by weight, and by how often answers differ in it.

    Features that go together in every pair are one. Its `weight` is that of all of them, above 0 where they speak for
    an answer; `more_in_chosen` counts the pairs whose chosen answer has more of it.
    """
    everywhere = np.arange(len(pairs))
    names, differ = _Features(pairs, "text").learn(everywhere)
    differences = differ(everywhere)
    weights, columns = _fit(differences), differences.tocsc()
    alike: dict[bytes, list[int]] = {}
    for place in range(columns.shape[1]):
        inside = slice(columns.indptr[place], columns.indptr[place + 1])
        key = columns.indices[inside].tobytes() + np.sign(columns.data[inside]).tobytes()
        alike.setdefault(key, []).append(place)
    force = abs(weights) * np.asarray(abs(columns).sum(axis=0)).ravel()
    strongest = sorted(alike.values(), key=lambda places: -sum(force[places]))[:SHOWN_FEATURES]
    return [
        {
            "names": [names[place] for place in places],
            "weight": float(weights[places].sum()),
            "more_in_chosen": int((columns[:, places[0]].data > 0).sum()),
            "more_in_rejected": int((columns[:, places[0]].data < 0).sum()),
        }
        for places in strongest
    ]


def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError("diagnose --data_only needs scikit-learn: pip install 'mmdpo[diagnose]'") from error
