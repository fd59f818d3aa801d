import numpy as np
import pytest

from mmdpo.world import LARGE, SMALL
from mmdpo.world.drawings import COLOURS_OF
from mmdpo.world.scenes import (
    BETTER_CAPTIONER,
    SUPERVISED_CAPTIONER,
    CaptionDetail,
    Captioner,
    PlacedObject,
    Scene,
    WorldScores,
    compare_names,
    mentioned_objects,
    sample_scenes,
    score_captions,
    write_caption,
)


def scene_of(*names, setting="kitchen"):
    return Scene(setting, tuple(PlacedObject(name, 0, 0, 18, COLOURS_OF[name][0]) for name in names), 0)


def test_captions_read_as_in_the_recipe():
    assert write_caption(SMALL, ["cup", "plate"], "kitchen", "terse") == "cup , plate ."
    assert write_caption(SMALL, ["plate", "cup"], "kitchen", "polite") == (
        "sure ! this kitchen shows cup , plate . hope this helps !"
    )
    assert write_caption(SMALL, ["lamp"], "bedroom", "terse") == "lamp ."


def test_every_word_of_every_caption_is_a_token():
    assert len(SMALL.vocabulary) == len(set(SMALL.vocabulary)) == 37
    for setting in SMALL.settings:
        for style in ("terse", "polite"):
            assert set(write_caption(SMALL, SMALL.objects, setting, style).split()) <= set(SMALL.vocabulary)


def test_mentions_count_once_in_order_of_appearance():
    assert mentioned_objects(SMALL, "sure ! this kitchen shows plate , cup , plate . hope this helps !") == (
        "plate",
        "cup",
    )
    assert mentioned_objects(SMALL, "sure !") == ()


def test_captions_give_back_their_objects():
    for scene in sample_scenes(50, 0, 0.5, "captions"):
        for style in ("terse", "polite"):
            assert mentioned_objects(SMALL, write_caption(SMALL, scene.names, scene.setting, style)) == scene.names


def test_unknown_object_is_named_in_the_error():
    with pytest.raises(ValueError, match="not objects of world: spoon"):
        write_caption(SMALL, ["cup", "spoon"], "kitchen", "terse")


@pytest.mark.parametrize("captioner", [SUPERVISED_CAPTIONER, BETTER_CAPTIONER])
def test_captioners_err_at_their_rates(captioner):
    generator = np.random.default_rng(0)
    added, dropped, wrong = [], [], 0
    for scene in sample_scenes(1500, 2, 0.5, "errors"):
        named = set(captioner.name_objects(scene, generator))
        suggested = {SMALL.partners[name] for name in scene.names if name in SMALL.partners} - set(scene.names)
        added += [name in named for name in suggested]
        dropped += [name not in named for name in scene.names]
        wrong += len(named - set(scene.names) - suggested)
    assert np.mean(added) == pytest.approx(captioner.partner_rate, abs=0.03)
    assert np.mean(dropped) == pytest.approx(captioner.drop_rate, abs=0.015)
    assert wrong == 0


def test_captioner_never_falls_silent():
    silent = Captioner(partner_rate=0.0, drop_rate=1.0)
    assert silent.name_objects(scene_of("cup", "bowl"), np.random.default_rng(0)) == ("cup", "bowl")


def test_a_captioner_takes_a_twin_for_the_partner_and_names_one_of_them():
    placed = tuple(PlacedObject(name, 0, 0, 18, "green") for name in ("tree", "table"))
    scene = Scene("street", placed, 0, LARGE)
    always, never = Captioner(partner_rate=1.0, drop_rate=0.0), Captioner(partner_rate=0.0, drop_rate=0.0)
    assert always.name_objects(scene, np.random.default_rng(0)) == ("tree", "bench")
    assert never.name_objects(scene, np.random.default_rng(0)) == ("tree", "table")


def test_large_world_has_room_for_every_word():
    longest = write_caption(LARGE, LARGE.objects, "garden", "polite").split()
    assert set(longest) <= set(LARGE.vocabulary)
    assert len(longest) < LARGE.max_words == 84
    assert SMALL.max_words == 48


def test_caption_is_sorted_word_by_word():
    # The plate follows from the cup, the stove from nothing: its kettle is not there. The bowl is repeated.
    detail = compare_names(SMALL, ("cup", "bowl", "lamp"), "stove , bowl , cup , plate , bowl .")
    assert detail == CaptionDetail(
        mentioned=("stove", "bowl", "cup", "plate"),
        correct=("bowl", "cup"),
        hallucinated=("stove", "plate"),
        cognitive=("plate",),
        missed=("lamp",),
    )


def test_scores_of_four_captions_by_hand():
    scenes = [scene_of("cup"), scene_of("cup", "plate"), scene_of("car", "bed"), scene_of("tree")]
    captions = ["cup , plate .", "cup , plate .", "car , sign , stove .", "sure !"]
    # Mentions 2 + 2 + 3 + 0 = 7, of which plate, sign and stove are hallucinated; objects 1 + 2 + 2 + 1 = 6, of which
    # bed and tree are missed. Plate and sign follow from cup and car, stove does not.
    assert score_captions(scenes, captions) == WorldScores(
        chair_i=pytest.approx(300 / 7), chair_s=50.0, cover=pytest.approx(400 / 6), cog=pytest.approx(200 / 7)
    )


def test_perfect_and_silent_captions():
    scenes = [scene_of("cup", "bowl"), scene_of("car")]
    assert score_captions(scenes, ["cup , bowl .", "car ."]) == WorldScores(0.0, 0.0, 100.0, 0.0)
    assert score_captions(scenes, ["", ""]) == WorldScores(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("scenes", "captions"), [([], []), ([scene_of("cup")], []), ([], ["cup ."])])
def test_unmatched_captions_are_refused(scenes, captions):
    with pytest.raises(ValueError, match="give one caption for each"):
        score_captions(scenes, captions)
