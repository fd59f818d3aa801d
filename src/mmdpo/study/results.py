"""From trials to the content of results.json: means over seeds with intervals, and differences paired by seed.

Seeds are what is repeated: each has its own pairs, scenes and order of training, so that the spread over seeds holds
all of these. Intervals are Student's, over seeds: the mean ± t · s / √n, of the values or of their paired differences.

An interval does not allow for the number of comparisons. So each difference also has p, of the two-sided t-test that
its interval belongs to. Those of the measures that claims are made about have two numbers more, by Holm (1979): `holm`,
which is p where their number is allowed for, so that the probability of even one false one among those with holm ≤ 0.05
is at most 5 %; and the interval of that size, `wide_low` to `wide_high`, which leaves out 0 where holm is below 0.05.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from mmdpo.study.study_file import START, Study
from mmdpo.study.trial import FAILURE, RESULT, Trial, digest_code, library_versions
from mmdpo.study.variants import REPEATING

RESULTS = "results.json"
LEAST_SEEDS = 3
"""An interval needs so many seeds: fewer say too little about their spread."""
METHOD = "95 % intervals over seeds (Student's t); differences are paired by seed"


def collect_results(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns what the trials have measured so far, ready for JSON; what is missing is listed with its reason."""
    finished = {(trial.variant.name, trial.seed): found for trial in trials if (found := trial.read(RESULT))}
    measures: dict[str, Any] = {}
    values: dict[str, dict[str, dict[str, float]]] = {variant.name: {} for variant in study.variants}
    for name, by_measure in values.items():
        for seed in study.seeds:
            result = finished.get((name, seed), {})
            measures |= result.get("measures", {})
            for measure, value in result.get("metrics", {}).items():
                if value is not None:  # it is undefined
                    by_measure.setdefault(measure, {})[str(seed)] = value
    # Claims are made about measures with a better side that do not repeat another one.
    claimed = [name for name, of in measures.items() if of["better"] != "neither" and name not in REPEATING]
    baseline = study.variants[1].name
    differences: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in values if name != baseline}
    for name, described in differences.items():
        for measure, by_seed in values[name].items():
            of = values[baseline].get(measure, {})
            described[measure] = describe({seed: value - of[seed] for seed, value in by_seed.items() if seed in of})
    return {
        "study": study.name,
        "about": study.about,
        "command": study.command,
        "seeds": list(study.seeds),
        "baseline": baseline,
        "variants": {variant.name: variant.about for variant in study.variants},
        "measures": measures,
        "values": {
            name: {m: describe(by_seed, is_share=measures[m]["unit"] == "%") for m, by_seed in of.items()}
            for name, of in values.items()
        },
        "differences": adjust(differences, claimed),
        "missing": [
            {"variant": t.variant.name, "seed": t.seed, "error": t.read(FAILURE).get("error", "not run yet")}
            for t in trials
            if (t.variant.name, t.seed) not in finished
        ],
        "statistics": METHOD,
        "notes": _note(study, values),
        "trial_seconds": sum(sum(result["seconds"].values()) for result in finished.values()),
        "versions": {"python": platform.python_version(), "mmdpo": version("mmdpo"), **library_versions()},
        "code": digest_code(),
    }


def describe(by_seed: Mapping[str, float], *, is_share: bool = False) -> dict[str, Any]:
    """Returns mean, standard deviation and 95 % interval of the mean; None where there are too few values.

    The interval of a share, in per cent, is cut to what a share can be: Student's t knows no bounds.
    """
    values = list(by_seed.values())
    mean = statistics.fmean(values) if values else None
    spread = statistics.stdev(values) if len(values) > 1 else None
    low = high = None
    if mean is not None and spread is not None and len(values) >= LEAST_SEEDS:
        reach = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
        low, high = mean - reach, mean + reach
        if is_share:
            low, high = max(low, 0.0), min(high, 100.0)
    return {"mean": mean, "std": spread, "low": low, "high": high, "n": len(values), "by_seed": dict(by_seed)}


def adjust(
    differences: Mapping[str, Mapping[str, Mapping[str, Any]]], claimed: Collection[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the differences with p; those of the measures in `claimed` with Holm's p and interval, else None.

    All of these count as comparisons but the start's, which compare nothing that was trained, and those that have no
    interval.
    """
    p = {
        (name, measure): p_value(value)
        for name, of in differences.items()
        for measure, value in of.items()
        if name != START and not measure.startswith("time/") and value["low"] is not None
    }
    tests = {test: value for test, value in p.items() if test[1] in claimed}
    corrected_p = allow_for_number(tests)
    adjusted: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in differences}
    for name, of in differences.items():
        for measure, value in of.items():
            own, corrected = p.get((name, measure)), corrected_p.get((name, measure))
            low = high = None
            if own is not None and corrected is not None:
                # Of the size at which Holm's procedure tests this difference; with p of 0 the interval is a point.
                within = 1 - (0.05 * own / corrected if corrected else 0.05 / len(tests))
                reach = t_quantile(value["n"] - 1, within) * (value["std"] or 0.0) / math.sqrt(value["n"])
                low, high = value["mean"] - reach, value["mean"] + reach
            wide = {"holm": None if corrected is None else min(1.0, corrected), "wide_low": low, "wide_high": high}
            adjusted[name][measure] = {**value, "p": own, **wide}
    return adjusted


def allow_for_number(p: Mapping[Any, float]) -> dict[Any, float]:
    """Returns p-values in which their number is allowed for, by Holm (1979); those above 1 stand for 1.

    >>> allow_for_number({"a": 0.04, "b": 0.01, "c": 0.03})
    {'b': 0.03, 'c': 0.06, 'a': 0.06}
    """
    corrected, largest = {}, 0.0
    for place, test in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, p[test] * (len(p) - place))
        corrected[test] = largest
    return corrected


def p_value(difference: Mapping[str, Any]) -> float:
    """Returns p of the two-sided t-test of a mean against 0; without spread it is 1 for a mean of 0, else 0."""
    if not difference["std"]:
        return float(not difference["mean"])
    t = difference["mean"] / (difference["std"] / math.sqrt(difference["n"]))
    return 1 - _t_within(abs(t), difference["n"] - 1)


def _t_within(t: float, freedom: int) -> float:
    """Returns the probability that Student's t lies within ± t, exact for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term = total = (cosine if freedom > 1 else 0.0) if is_odd else 1.0
    for step in range(2 + is_odd, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def t_quantile(freedom: int, within: float = 0.95) -> float:
    """Returns t such that Student's t lies within ± t with that probability, by bisection.

    For .95 it is 12.7 with one degree of freedom, and 1.96 with many.
    """
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < within:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < within else (low, middle)
    return high


def _note(study: Study, values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    notes = []
    if len(study.seeds) < LEAST_SEEDS:
        several = "s" * (len(study.seeds) > 1)
        notes.append(f"{len(study.seeds)} seed{several}: too few for intervals, which need {LEAST_SEEDS}")
    for name, of in values.items():
        count = max((len(by_seed) for by_seed in of.values()), default=0)
        if count < len(study.seeds):
            notes.append(f"{name}: {count} of {len(study.seeds)} seeds are finished")
    if study.seeds and values.get(START):
        notes.append(f"{START} is what every variant begins as; rewards are taken against it")
    return notes
