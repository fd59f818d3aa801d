"""What the method does on the embedded world, with wide margins: directions, never a score of one seed.

And what `mmdpo diagnose` says of models whose dependence on the image is known.
"""

import json

import pytest
from transformers import AutoProcessor

from mmdpo.cli import main
from mmdpo.diagnosis.pair_scores import OTHER, make_pair_collator, score_pairs
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.records import ORIGINAL
from mmdpo.study.variants import make_world_pairs, measure_reliance, train_variant, training_options
from mmdpo.world.model import CHECKPOINT, caption_scenes
from mmdpo.world.scenes import draw_test_scenes, score_captions

SEED, PAIRS, HELD_OUT, SCENES = 0, 384, 96, 100
NEEDS_THE_IMAGE = '[{"rank": [["original", "chosen"], ["random_image", "chosen"]]}, {"anchor": ["original", "chosen"]}]'

pytestmark = pytest.mark.slow


def train(objective, folder, pairs=PAIRS):
    args = training_options(objective, folder, seed=SEED, epochs=1)
    return train_variant("world", args, make_world_pairs(pairs, SEED))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Image reliance and world scores of three objectives trained from the shipped checkpoint on the same pairs.

    And `folder`, with the model that was trained with DPO.
    """
    folder = tmp_path_factory.mktemp("directions")
    held_out = make_world_pairs(HELD_OUT, SEED, "held-out")
    scenes = draw_test_scenes(SCENES, SEED)
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    start = load_model(resolve_start("world", training_options("dpo", folder, seed=0, epochs=1).load_options()))
    collator = make_pair_collator(processor, start.config, (ORIGINAL, OTHER), seed=SEED)
    reference = score_pairs(start, collator, held_out)
    found = {"folder": folder}
    for objective in ("dpo", "mdpo", "dpo_conditional"):
        trainer = train(objective, folder / objective)
        if objective == "dpo":
            trainer.save_model()
        policy = score_pairs(trainer.model, collator, held_out)
        found[objective] = (measure_reliance(policy, reference), None)
        if objective != "dpo_conditional":  # of which nothing is asked but reliance
            captions = caption_scenes(trainer.model, processor, scenes, batch_size=100)
            found[objective] = (found[objective][0], score_captions(scenes, captions))
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


@pytest.mark.parametrize(("objective", "depends"), [("dpo", False), (NEEDS_THE_IMAGE, True)], ids=["dpo", "image"])
def test_a_trained_model_is_told_from_one_that_ignores_the_image(outcomes, tmp_path, objective, depends):
    run = outcomes["folder"] / "dpo"
    if depends:
        run = tmp_path / "run"
        train(objective, run, pairs=512).save_model()
    out = tmp_path / "out"
    command = ["diagnose", "--model", str(run), "--reference", "world", "--dataset", "world"]
    assert main([*command, "--out", str(out), "--pairs", "128", "--batch_size", "32"]) == 0
    found = json.loads((out / "diagnosis.json").read_text())
    lost = found["measures"]["lost_other"]
    assert found["measures"]["accuracy_real"]["value"] > 85
    assert (lost["value"] > 15) == depends
    assert abs(lost["value"]) <= 5 or depends
    assert found["verdict"]["depends"] is depends
