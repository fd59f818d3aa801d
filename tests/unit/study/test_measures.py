"""Image reliance of known scores, and the numbers of a benchmark."""

from types import SimpleNamespace

import pytest
import torch

from mmdpo.diagnosis.pair_scores import OTHER, PairScores
from mmdpo.records import CHOSEN, ORIGINAL, REJECTED, Cell
from mmdpo.study.variants import HeldOut, Measure, measure_benchmark, measure_reliance


def scores(chosen, rejected, chosen_other, rejected_other):
    values = {ORIGINAL: (chosen, rejected), OTHER: (chosen_other, rejected_other)}
    return PairScores(
        {
            Cell(image, response): torch.tensor(numbers)
            for image, both in values.items()
            for response, numbers in zip((CHOSEN, REJECTED), both, strict=True)
        }
    )


def test_measures_by_hand():
    """Three pairs; log-ratios (policy − reference) of chosen and rejected are written beside them."""
    reference = scores([-4.0, -5.0, -6.0], [-4.0, -5.0, -6.0], [-9.0, -9.0, -9.0], [-9.0, -9.0, -9.0])
    policy = scores(
        [-3.0, -5.0, -8.0],  # +1, 0, −2
        [-5.0, -6.0, -7.0],  # −1, −1, −1
        [-9.0, -12.0, -10.0],  # 0, −3, −1
        [-10.0, -10.0, -9.0],  # −1, −1, 0
    )
    found = measure_reliance(policy, reference)
    assert found["delta_logp_chosen"] == pytest.approx((1 + 0 - 2) / 3)
    assert found["accuracy_real"] == pytest.approx(200 / 3)  # the third pair's chosen answer lost more
    assert found["accuracy_other"] == pytest.approx(100 / 3)  # the first alone
    assert found["image_gain"] == pytest.approx((6 + 7 + 2) / 3)  # −3 + 9, −5 + 12, −8 + 10


def test_a_benchmark_is_answered_by_the_model_and_its_numbers_are_measures(tmp_path):
    options = {
        "name": "world",
        "limit": 4,
        "partial": True,
        "log_samples": False,
        "chat_template_kwargs": {"add_generation_prompt": True},
    }
    found = measure_benchmark(options, "world", tmp_path / "out")
    value, measure = found["world/cover"]
    assert 0 < value <= 100
    assert measure == Measure("world/cover", "%", "higher", 2)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 4


def test_an_option_that_an_evaluation_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown flag --limt"):
        measure_benchmark({"name": "world", "limt": 4}, "world", tmp_path / "out")


def test_a_model_is_asked_for_no_captions_where_no_scenes_are():
    """Its processor may have no chat template, or one that takes no prompt of the embedded worlds."""

    def refuse(*turns, **how):
        raise ValueError("this processor has no chat template")

    processor = SimpleNamespace(apply_chat_template=refuse)
    collator = SimpleNamespace(prepare=SimpleNamespace(renderer=SimpleNamespace(processor=processor)))
    assert HeldOut((), (), collator).ask(torch.nn.Linear(1, 1)) == ([], None)
