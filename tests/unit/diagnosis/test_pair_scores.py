"""Log-probabilities of pairs under several images are those of training, and of each image alone."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER, make_pair_collator, score_pairs
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def world():
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
    return model, AutoProcessor.from_pretrained(CHECKPOINT), make_pairs(6, seed=2)


def test_scores_are_those_of_training_and_the_other_image_is_another(world, tmp_path):
    model, processor, rows = world
    collator = make_pair_collator(processor, model.config, (ORIGINAL, OTHER), seed=0)
    found = score_pairs(model, collator, PreferenceDataset.from_rows(rows), batch_size=4)
    args = MDPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, objective="dpo")
    metrics = MDPOTrainer(model, args=args, train_dataset=rows, processing_class=processor).evaluate(rows)
    assert float(found.of(ORIGINAL, CHOSEN).mean()) == pytest.approx(metrics["eval_logps/chosen"], rel=1e-5)
    assert float(found.of(ORIGINAL, REJECTED).mean()) == pytest.approx(metrics["eval_logps/rejected"], rel=1e-5)
    assert (found.of(ORIGINAL, CHOSEN) > found.of(OTHER, CHOSEN)).all(), "the supervised model does look at the image"


def test_each_image_version_is_scored_as_it_is_alone(world):
    model, processor, rows = world
    pairs = PreferenceDataset.from_rows(rows)
    every = (ORIGINAL, CORRUPTED, OTHER, NO_IMAGE)
    together = score_pairs(model, make_pair_collator(processor, model.config, every, seed=0), pairs)
    assert len(together.by_cell) == 8
    for image in (CORRUPTED, NO_IMAGE):
        alone = score_pairs(model, make_pair_collator(processor, model.config, (image,), seed=0), pairs, batch_size=1)
        for response in (CHOSEN, REJECTED):
            torch.testing.assert_close(together.of(image, response), alone.of(image, response), rtol=1e-4, atol=1e-3)
