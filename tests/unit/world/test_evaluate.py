import pytest

from mmdpo.world.evaluate import CaptionDetail, WorldScores, compare_caption, score_captions
from mmdpo.world.scenes import PlacedObject, Scene


def scene_of(*names):
    return Scene("kitchen", tuple(PlacedObject(name, 0, 0, 0, 0, 7) for name in names), 0)


def test_caption_is_sorted_word_by_word():
    # The plate follows from the cup, the stove from nothing: its kettle is not there. The bowl is repeated.
    detail = compare_caption(scene_of("cup", "bowl", "lamp"), "stove , bowl , cup , plate , bowl .")
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
