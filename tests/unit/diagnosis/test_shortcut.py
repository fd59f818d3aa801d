"""Text-only rules: they find a planted shortcut, find none where there is none, and never test what they trained on."""

import sys

import numpy as np
import pytest

from mmdpo.diagnosis.shortcut import TextPair, measure_shortcut

WORDS = ("cat", "dog", "tree", "car", "lamp", "road", "bird", "roof", "door", "shoe")


def pairs(count, decorate):
    generator = np.random.default_rng(0)
    made = []
    for i in range(count):
        chosen, rejected = (" ".join(generator.choice(WORDS, 6)) for _ in range(2))
        made.append(TextPair(str(i), f"question {i}", f"{i}.png", *decorate(chosen, rejected)))
    return made


def test_a_planted_opening_is_found_and_named():
    found = measure_shortcut(pairs(120, lambda c, r: (f"Sure ! {c}", f"{r} indeed")), resamples=200)
    assert found["rules"]["text"]["accuracy"] == 100
    assert found["rules"]["first_words"]["accuracy"] == 100
    assert found["rules"]["text"]["low"] is not None
    decisive = {name for feature in found["features"] for name in feature["names"]}
    assert {"“sure”", "“indeed”"} <= decisive


def test_length_is_found_by_length_and_not_by_the_first_words():
    found = measure_shortcut(pairs(120, lambda c, r: (f"{c} {c}", r)), resamples=200)
    assert found["rules"]["length"]["accuracy"] == 100
    assert found["rules"]["first_words"]["accuracy"] < 70


def test_without_a_shortcut_the_interval_holds_a_half():
    found = measure_shortcut(pairs(200, lambda c, r: (c, r)), resamples=200)
    rule = found["rules"]["text"]
    assert rule["low"] < 50 < rule["high"]


def test_pairs_of_one_prompt_are_never_on_both_sides():
    """Ten prompts of twenty copies each: what tells a pair apart is its own words, useless for other prompts."""
    generator = np.random.default_rng(1)
    made = []
    for group in range(10):
        chosen, rejected = (" ".join(f"w{n}" for n in generator.integers(0, 500, 6)) for _ in range(2))
        made += [TextPair(f"{group}-{k}", f"question {group}", "", chosen, rejected) for k in range(20)]
    found = measure_shortcut(made, resamples=200)
    assert found["grouped_by"] == "prompt"
    assert found["rules"]["text"]["accuracy"] < 90, "copies of a test pair were trained on"


def test_one_question_for_all_is_grouped_by_image_too():
    made = [TextPair(p.id, "describe", p.image, p.chosen, p.rejected) for p in pairs(60, lambda c, r: (f"ok {c}", r))]
    assert measure_shortcut(made, resamples=200)["grouped_by"] == "prompt and image"


def test_too_few_pairs_say_so():
    found = measure_shortcut(pairs(3, lambda c, r: (c, r)), resamples=200)
    assert found["rules"] == {}
    assert "3 distinct groups" in found["notes"][0]
    few = measure_shortcut(pairs(8, lambda c, r: (f"{c} {c}", r)), resamples=200)
    assert few["rules"]["length"]["low"] is None
    assert "too few for intervals" in few["notes"][0]


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ImportError, match=r"mmdpo\[diagnose\]"):
        measure_shortcut(pairs(8, lambda c, r: (c, r)), resamples=200)
