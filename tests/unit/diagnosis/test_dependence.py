"""Diagnosis of known scores: a preference that ignores the image, one that needs it, and too few pairs to tell."""

import pytest
import torch

from mmdpo.diagnosis.dependence import compare_images, summarise_pairs
from mmdpo.diagnosis.pair_scores import OTHER, PairScores
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell

N = 60


def scores(chosen_by_image):
    cells = {}
    for image, margin in chosen_by_image.items():
        cells[Cell(image, CHOSEN)] = margin - 10.0
        cells[Cell(image, REJECTED)] = torch.full((N,), -10.0)
    return PairScores(cells)


def summarise(policy, reference=None, images=None, beta=0.1):
    values = compare_images(policy, reference, beta)
    ids = [str(i) for i in range(N)]
    return values, summarise_pairs(values, ids, ids if images is None else images, resamples=500)


RIGHT = torch.ones(N)
NINE_IN_TEN = torch.where(torch.arange(N) % 10 == 0, -1.0, 1.0)
EVERY_SECOND = torch.where(torch.arange(N) % 2 == 0, -1.0, 1.0)


def test_a_preference_that_ignores_the_image():
    policy = scores({ORIGINAL: NINE_IN_TEN, CORRUPTED: NINE_IN_TEN, OTHER: NINE_IN_TEN, NO_IMAGE: NINE_IN_TEN / 2})
    _, found = summarise(policy)
    assert found["measures"]["accuracy_real"]["value"] == pytest.approx(90)
    assert found["measures"]["lost_other"]["value"] == 0
    assert found["measures"]["surviving_none"]["value"] == pytest.approx(50)
    assert found["verdict"]["depends"] is False


def test_a_preference_that_needs_the_image():
    policy = scores({ORIGINAL: RIGHT, CORRUPTED: EVERY_SECOND, OTHER: EVERY_SECOND, NO_IMAGE: EVERY_SECOND})
    values, found = summarise(policy)
    lost = found["measures"]["lost_other"]
    assert lost["value"] == pytest.approx(50)
    assert 30 < lost["low"] < 50 < lost["high"] < 70
    assert found["verdict"]["depends"] is True
    assert (values.margins["real"] - values.margins["none"]).tolist() == [2.0 if i % 2 == 0 else 0.0 for i in range(N)]


def test_no_preference_is_no_dependence():
    policy = scores(dict.fromkeys((ORIGINAL, OTHER, NO_IMAGE), EVERY_SECOND))
    _, found = summarise(policy)
    assert found["verdict"]["depends"] is None
    assert "cannot be told" in found["verdict"]["text"], "half of the pairs, with an interval around, is no preference"
    assert "surviving_none" not in found["measures"], "a share of a margin that may be 0"


def test_a_preference_for_the_rejected_answer_is_called_that():
    policy = scores(dict.fromkeys((ORIGINAL, OTHER, NO_IMAGE), -RIGHT))
    _, found = summarise(policy)
    assert found["verdict"]["text"].startswith("The model prefers rejected to chosen")


def test_a_model_that_is_its_reference_prefers_neither_answer():
    policy = scores({ORIGINAL: RIGHT, CORRUPTED: EVERY_SECOND, OTHER: EVERY_SECOND, NO_IMAGE: EVERY_SECOND})
    verdict = summarise(policy, policy)[1]["verdict"]
    assert verdict["depends"] is None
    assert verdict["text"].startswith("The model prefers neither answer: all margins are 0.")


def test_a_preference_that_is_right_more_often_without_the_image_depends_on_it():
    policy = scores({ORIGINAL: NINE_IN_TEN, OTHER: RIGHT, NO_IMAGE: RIGHT})
    _, found = summarise(policy)
    assert found["measures"]["lost_other"]["high"] < 0
    assert found["verdict"]["depends"] is True
    assert "No sign" not in found["verdict"]["text"]


def test_rewards_are_scaled_and_taken_against_the_reference_under_the_same_image():
    policy = scores({ORIGINAL: 3 * RIGHT, NO_IMAGE: RIGHT})
    reference = scores({ORIGINAL: RIGHT, NO_IMAGE: 2 * RIGHT})
    values, found = summarise(policy, reference, beta=0.5)
    assert values.unit == "reward"
    assert values.margins["real"].tolist() == pytest.approx([1.0] * N)
    assert values.margins["none"].tolist() == pytest.approx([-0.5] * N)
    assert found["measures"]["gain_chosen"]["value"] == pytest.approx(2.0), "of the policy alone, in nats"


def test_few_distinct_images_give_no_interval_and_say_so():
    policy = scores({ORIGINAL: RIGHT, OTHER: RIGHT, NO_IMAGE: RIGHT})
    _, found = summarise(policy, images=["one.png", "two.png"] * (N // 2))
    assert found["measures"]["accuracy_real"]["low"] is None
    assert found["verdict"]["depends"] is None
    assert "2 distinct images: too few for intervals" in found["notes"][0]


def test_the_seed_is_that_of_the_bootstrap_too():
    values = compare_images(scores(dict.fromkeys((ORIGINAL, OTHER, NO_IMAGE), torch.arange(N) % 7 - 2.0)), None, 0.1)
    ids = [str(i) for i in range(N)]
    lows = [
        summarise_pairs(values, ids, ids, resamples=500, seed=seed)["measures"]["margin_real"]["low"]
        for seed in (0, 1, 0)
    ]
    assert lows[0] == lows[2] != lows[1]
