from collections import Counter

import numpy as np
import pytest

from mmdpo.world.scenes import (
    ANCHOR_RATE,
    GRID,
    ICON_SIZES,
    IMAGE_SIZE,
    LONE_PARTNER_RATE,
    OBJECTS,
    PAIRS,
    PIXEL_NOISE,
    SETTINGS,
    STRANGER_RATE,
    PlacedObject,
    Scene,
    render,
    sample_scene,
    sample_scenes,
)

CELL = IMAGE_SIZE // GRID


def own_objects(setting):
    return {name for pair in SETTINGS[setting] for name in (pair.anchor, pair.partner)}


def test_world_has_eighteen_objects_in_nine_pairs_of_three_settings():
    assert len(OBJECTS) == len(set(OBJECTS)) == 18
    assert {setting: len(pairs) for setting, pairs in SETTINGS.items()} == {"kitchen": 3, "street": 3, "bedroom": 3}
    # The partner comes right after its anchor, where the language prior acts.
    assert all(OBJECTS.index(pair.partner) == OBJECTS.index(pair.anchor) + 1 for pair in PAIRS)


@pytest.mark.parametrize("co_occurrence", [0.5, 0.85])
def test_objects_appear_at_their_rates(co_occurrence):
    scenes = sample_scenes(2500, 0, co_occurrence, "rates")
    settings = Counter(scene.setting for scene in scenes)
    beside, alone, anchors, strangers = [], [], [], []
    for scene in scenes:
        names = set(scene.names)
        strangers.append(len(names - own_objects(scene.setting)))
        for pair in SETTINGS[scene.setting]:
            anchors.append(pair.anchor in names)
            (beside if pair.anchor in names else alone).append(pair.partner in names)
    # Scenes without any object are drawn again: what a scene can be made of becomes likelier by this much.
    empty = ((1 - ANCHOR_RATE) * (1 - LONE_PARTNER_RATE)) ** 3 * (1 - STRANGER_RATE)
    assert all(abs(count / len(scenes) - 1 / 3) < 0.03 for count in settings.values())
    assert np.mean(anchors) == pytest.approx(ANCHOR_RATE / (1 - empty), abs=0.02)
    assert np.mean(beside) == pytest.approx(co_occurrence, abs=0.02)
    assert np.mean(strangers) == pytest.approx(STRANGER_RATE / (1 - empty), abs=0.02)
    # P(partner | no anchor), with the empty scenes taken out of the denominator.
    lone = (1 - ANCHOR_RATE) * LONE_PARTNER_RATE / ((1 - ANCHOR_RATE) - empty)
    assert np.mean(alone) == pytest.approx(lone, abs=0.02)
    assert max(strangers) == 1
    assert min(len(scene.objects) for scene in scenes) >= 1


def test_objects_stand_in_canonical_order_in_cells_of_their_own():
    for scene in sample_scenes(200, 1, 0.85, "cells"):
        assert list(scene.names) == sorted(set(scene.names), key=OBJECTS.index)
        assert len({(placed.row, placed.column) for placed in scene.objects}) == len(scene.objects)
        for placed in scene.objects:
            assert placed.size in ICON_SIZES
            assert 0 <= placed.left <= IMAGE_SIZE - placed.size
            assert 0 <= placed.top <= IMAGE_SIZE - placed.size
            centre_row, centre_column = (start + placed.size / 2 for start in (placed.top, placed.left))
            assert (centre_row // CELL, centre_column // CELL) == (placed.row, placed.column)


def test_scene_depends_on_seed_purpose_and_index_alone():
    few, many = sample_scenes(3, 7, 0.5, "test"), sample_scenes(10, 7, 0.5, "test")
    assert many[:3] == few
    assert not set(many) & set(sample_scenes(10, 8, 0.5, "test"))
    assert not set(many) & set(sample_scenes(10, 7, 0.5, "supervised"))


def test_picture_is_a_function_of_the_scene():
    first, second = sample_scenes(2, 3, 0.5, "pictures")
    assert render(first).size == (IMAGE_SIZE, IMAGE_SIZE)
    assert render(first).mode == "RGB"
    assert render(first).tobytes() == render(first).tobytes() != render(second).tobytes()


def test_icons_of_all_objects_differ_by_more_than_the_noise():
    pictures = {
        name: np.asarray(render(Scene("kitchen", (PlacedObject(name, 1, 1, 14, 14, 7),), 0)), dtype=float)
        for name in OBJECTS
    }
    for name, picture in pictures.items():
        for other in OBJECTS[: OBJECTS.index(name)]:
            # Same seed, same noise: pixels differ only where the icons do.
            changed = np.abs(picture - pictures[other]).max(axis=-1) > 5 * PIXEL_NOISE
            assert changed.sum() >= 8, (name, other)
            assert not changed[:14].any()


def test_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"co_occurrence is a probability.*85"):
        sample_scene(np.random.default_rng(0), 85)
