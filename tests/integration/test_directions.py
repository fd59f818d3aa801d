"""What the method does on the embedded world, with wide margins: directions, never a score of one seed."""

import pytest
from transformers import AutoProcessor

from mmdpo import MDPOTrainer
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.diagnosis.pair_scores import OTHER, make_pair_collator, score_pairs
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.records import ORIGINAL
from mmdpo.study.quickstart import QuickstartPlan, training_options
from mmdpo.study.variants import measure_reliance
from mmdpo.world.model import CHECKPOINT, caption_scenes
from mmdpo.world.pairs import make_pairs
from mmdpo.world.scenes import draw_test_scenes, score_captions

PLAN = QuickstartPlan(seed=0)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Image reliance and world scores of three objectives trained from the shipped checkpoint on the same pairs."""
    folder = tmp_path_factory.mktemp("directions")
    pairs = PreferenceDataset.from_rows(make_pairs(PLAN.pairs, PLAN.seed))
    held_out = PreferenceDataset.from_rows(make_pairs(PLAN.held_out_pairs, PLAN.seed, purpose="held-out"))
    scenes = draw_test_scenes(PLAN.scenes, PLAN.seed)
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    start = load_model(resolve_start("world", training_options("dpo", folder, seed=0, epochs=1).load_options()))
    collator = make_pair_collator(processor, start.config, (ORIGINAL, OTHER), seed=PLAN.seed)
    reference = score_pairs(start, collator, held_out)
    found = {}
    for objective in ("dpo", "mdpo", "dpo_conditional"):
        args = training_options(objective, folder / objective, seed=PLAN.seed, epochs=PLAN.epochs)
        trainer = MDPOTrainer("world", args=args, train_dataset=pairs)
        trainer.train()
        policy = score_pairs(trainer.model, collator, held_out)
        captions = caption_scenes(trainer.model, processor, scenes, batch_size=100)
        found[objective] = (measure_reliance(policy, reference), score_captions(scenes, captions))
    return found


def test_the_preference_that_dpo_learns_does_not_depend_on_the_image(outcomes):
    reliance, _ = outcomes["dpo"]
    assert reliance["accuracy_real"] > 85, "it did learn a preference"
    assert abs(reliance["accuracy_real"] - reliance["accuracy_other"]) <= 3


def test_mdpo_makes_the_chosen_answer_depend_on_the_image_more_than_dpo_does(outcomes):
    assert outcomes["mdpo"][0]["image_gain"] > outcomes["dpo"][0]["image_gain"] + 4


def test_the_anchor_keeps_the_chosen_answer_likely(outcomes):
    assert outcomes["mdpo"][0]["delta_logp_chosen"] > outcomes["dpo_conditional"][0]["delta_logp_chosen"]


def test_mdpo_covers_more_of_the_scene_than_dpo(outcomes):
    assert outcomes["mdpo"][1].cover > outcomes["dpo"][1].cover
