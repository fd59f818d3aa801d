"""Image reliance: known values, and the log-probabilities it rests on."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.study.reliance import PairLogprobs, measure_reliance, score_pairs
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs


def test_measures_by_hand():
    """Three pairs; log-ratios (policy − reference) of chosen and rejected are written beside them."""
    reference = PairLogprobs(
        chosen=torch.tensor([-4.0, -5.0, -6.0]),
        rejected=torch.tensor([-4.0, -5.0, -6.0]),
        chosen_other=torch.tensor([-9.0, -9.0, -9.0]),
        rejected_other=torch.tensor([-9.0, -9.0, -9.0]),
    )
    policy = PairLogprobs(
        chosen=torch.tensor([-3.0, -5.0, -8.0]),  # +1, 0, −2
        rejected=torch.tensor([-5.0, -6.0, -7.0]),  # −1, −1, −1
        chosen_other=torch.tensor([-9.0, -12.0, -10.0]),  # 0, −3, −1
        rejected_other=torch.tensor([-10.0, -10.0, -9.0]),  # −1, −1, 0
    )
    found = measure_reliance(policy, reference)
    assert found.delta_logp_chosen == pytest.approx((1 + 0 - 2) / 3)
    assert found.accuracy_real == pytest.approx(200 / 3)  # the third pair's chosen answer lost more
    assert found.accuracy_other == pytest.approx(100 / 3)  # the first alone
    assert found.image_gain == pytest.approx((6 + 7 + 2) / 3)  # −3 + 9, −5 + 12, −8 + 10


def test_scores_are_those_of_training_and_the_other_image_is_another(tmp_path):
    rows = make_pairs(6, seed=2)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    scores = score_pairs(model, processor, PreferenceDataset.from_rows(rows), seed=0, batch_size=4)
    args = MDPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, objective="dpo")
    metrics = MDPOTrainer(model, args=args, train_dataset=rows, processing_class=processor).evaluate(rows)
    assert float(scores.chosen.mean()) == pytest.approx(metrics["eval_logps/chosen"], rel=1e-5)
    assert float(scores.rejected.mean()) == pytest.approx(metrics["eval_logps/rejected"], rel=1e-5)
    assert (scores.chosen > scores.chosen_other).all(), "the supervised model does look at the image"
