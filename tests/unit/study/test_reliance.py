"""Image reliance: known values, and the log-probabilities it rests on."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell
from mmdpo.study.reliance import OTHER, PairScores, measure_reliance, score_pairs
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs


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
    assert found.delta_logp_chosen == pytest.approx((1 + 0 - 2) / 3)
    assert found.accuracy_real == pytest.approx(200 / 3)  # the third pair's chosen answer lost more
    assert found.accuracy_other == pytest.approx(100 / 3)  # the first alone
    assert found.image_gain == pytest.approx((6 + 7 + 2) / 3)  # −3 + 9, −5 + 12, −8 + 10


@pytest.fixture(scope="module")
def world():
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
    return model, AutoProcessor.from_pretrained(CHECKPOINT), make_pairs(6, seed=2)


def test_scores_are_those_of_training_and_the_other_image_is_another(world, tmp_path):
    model, processor, rows = world
    found = score_pairs(model, processor, PreferenceDataset.from_rows(rows), seed=0, batch_size=4)
    args = MDPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, objective="dpo")
    metrics = MDPOTrainer(model, args=args, train_dataset=rows, processing_class=processor).evaluate(rows)
    assert float(found.of(ORIGINAL, CHOSEN).mean()) == pytest.approx(metrics["eval_logps/chosen"], rel=1e-5)
    assert float(found.of(ORIGINAL, REJECTED).mean()) == pytest.approx(metrics["eval_logps/rejected"], rel=1e-5)
    assert (found.of(ORIGINAL, CHOSEN) > found.of(OTHER, CHOSEN)).all(), "the supervised model does look at the image"


def test_each_image_version_is_scored_as_it_is_alone(world):
    model, processor, rows = world
    pairs = PreferenceDataset.from_rows(rows)
    together = score_pairs(model, processor, pairs, seed=0, images=(ORIGINAL, CORRUPTED, OTHER, NO_IMAGE))
    assert len(together.by_cell) == 8
    for image in (CORRUPTED, NO_IMAGE):
        alone = score_pairs(model, processor, pairs, seed=0, images=(image,), batch_size=1)
        for response in (CHOSEN, REJECTED):
            torch.testing.assert_close(together.of(image, response), alone.of(image, response), rtol=1e-4, atol=1e-3)
