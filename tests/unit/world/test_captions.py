import numpy as np
import pytest

from mmdpo.world.captions import (
    BETTER_CAPTIONER,
    SUPERVISED_CAPTIONER,
    VOCABULARY,
    Captioner,
    mentioned_objects,
    write_caption,
)
from mmdpo.world.scenes import OBJECTS, PARTNERS, SETTINGS, PlacedObject, Scene, sample_scenes


def scene_of(*names, setting="kitchen"):
    return Scene(setting, tuple(PlacedObject(name, 0, 0, 0, 0, 7) for name in names), 0)


def test_captions_read_as_in_the_recipe():
    assert write_caption(["cup", "plate"], "kitchen", "terse") == "cup , plate ."
    assert write_caption(["plate", "cup"], "kitchen", "polite") == (
        "sure ! this kitchen shows cup , plate . hope this helps !"
    )
    assert write_caption(["lamp"], "bedroom", "terse") == "lamp ."


def test_every_word_of_every_caption_is_a_token():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 37
    for setting in SETTINGS:
        for style in ("terse", "polite"):
            assert set(write_caption(OBJECTS, setting, style).split()) <= set(VOCABULARY)


def test_mentions_count_once_in_order_of_appearance():
    assert mentioned_objects("sure ! this kitchen shows plate , cup , plate . hope this helps !") == ("plate", "cup")
    assert mentioned_objects("sure !") == ()


def test_captions_give_back_their_objects():
    for scene in sample_scenes(50, 0, 0.5, "captions"):
        for style in ("terse", "polite"):
            assert mentioned_objects(write_caption(scene.names, scene.setting, style)) == scene.names


def test_unknown_object_is_named_in_the_error():
    with pytest.raises(ValueError, match="not objects of the world: spoon"):
        write_caption(["cup", "spoon"], "kitchen", "terse")


@pytest.mark.parametrize("captioner", [SUPERVISED_CAPTIONER, BETTER_CAPTIONER])
def test_captioners_err_at_their_rates(captioner):
    generator = np.random.default_rng(0)
    added, dropped, wrong = [], [], 0
    for scene in sample_scenes(1500, 2, 0.5, "errors"):
        named = set(captioner.name_objects(scene, generator))
        suggested = {PARTNERS[name] for name in scene.names if name in PARTNERS} - set(scene.names)
        added += [name in named for name in suggested]
        dropped += [name not in named for name in scene.names]
        wrong += len(named - set(scene.names) - suggested)
    assert np.mean(added) == pytest.approx(captioner.partner_rate, abs=0.03)
    assert np.mean(dropped) == pytest.approx(captioner.drop_rate, abs=0.015)
    assert wrong == 0


def test_captioner_never_falls_silent():
    silent = Captioner(partner_rate=0.0, drop_rate=1.0)
    assert silent.name_objects(scene_of("cup", "bowl"), np.random.default_rng(0)) == ("cup", "bowl")
