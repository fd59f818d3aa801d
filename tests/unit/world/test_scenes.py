from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mmdpo.world import LARGE, SMALL
from mmdpo.world.scenes import (
    ANCHOR_RATE,
    LONE_PARTNER_RATE,
    STRANGER_RATE,
    PlacedObject,
    Scene,
    render,
    sample_scene,
    sample_scenes,
)


def own_objects(setting):
    return {name for pair in SMALL.settings[setting] for name in (pair.anchor, pair.partner)}


def test_world_has_eighteen_objects_in_nine_pairs_of_three_settings():
    assert len(SMALL.objects) == len(set(SMALL.objects)) == 18
    assert {setting: len(pairs) for setting, pairs in SMALL.settings.items()} == {
        "kitchen": 3,
        "street": 3,
        "bedroom": 3,
    }
    # The partner comes right after its anchor, where the language prior acts.
    assert all(SMALL.objects.index(pair.partner) == SMALL.objects.index(pair.anchor) + 1 for pair in SMALL.pairs)


@pytest.mark.parametrize("co_occurrence", [0.5, 0.85])
def test_objects_appear_at_their_rates(co_occurrence):
    scenes = sample_scenes(2500, 0, co_occurrence, "rates")
    settings = Counter(scene.setting for scene in scenes)
    beside, alone, anchors, strangers = [], [], [], []
    for scene in scenes:
        names = set(scene.names)
        strangers.append(len(names - own_objects(scene.setting)))
        for pair in SMALL.settings[scene.setting]:
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


def cells_of(scene, grid):
    side = scene.world.image_size / grid
    return {((p.top + p.size / 2) // side, (p.left + p.size / 2) // side) for p in scene.objects}


def test_objects_stand_in_canonical_order_in_cells_of_their_own():
    for scene in sample_scenes(200, 1, 0.85, "cells"):
        assert list(scene.names) == sorted(set(scene.names), key=SMALL.objects.index)
        assert len(cells_of(scene, 4)) == len(scene.objects)
        for placed in scene.objects:
            assert placed.size in SMALL.layouts[0].icon_sizes
            assert 0 <= placed.left <= SMALL.image_size - placed.size
            assert 0 <= placed.top <= SMALL.image_size - placed.size


def test_scene_depends_on_seed_purpose_and_index_alone():
    few, many = sample_scenes(3, 7, 0.5, "test"), sample_scenes(10, 7, 0.5, "test")
    assert many[:3] == few
    assert not set(many) & set(sample_scenes(10, 8, 0.5, "test"))
    assert not set(many) & set(sample_scenes(10, 7, 0.5, "supervised"))


def test_picture_is_a_function_of_the_scene():
    first, second = sample_scenes(2, 3, 0.5, "pictures")
    assert render(first).size == (SMALL.image_size, SMALL.image_size)
    assert render(first).mode == "RGB"
    assert render(first).tobytes() == render(first).tobytes() != render(second).tobytes()


def test_icons_of_all_objects_differ_by_more_than_the_noise():
    pictures = {
        name: np.asarray(render(Scene("kitchen", (PlacedObject(name, 14, 14, 7),), 0)), dtype=float)
        for name in SMALL.objects
    }
    for name, picture in pictures.items():
        for other in SMALL.objects[: SMALL.objects.index(name)]:
            # Same seed, same noise: pixels differ only where the icons do.
            changed = np.abs(picture - pictures[other]).max(axis=-1) > 5 * SMALL.pixel_noise
            assert changed.sum() >= 8, (name, other)
            assert not changed[:14].any()


def test_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"co_occurrence is a probability.*85"):
        sample_scene(np.random.default_rng(0), 85)


def test_large_world_has_a_twin_for_every_partner_and_an_icon_for_every_object():
    assert len(LARGE.objects) == len(set(LARGE.objects)) == 36 == len(LARGE.icons)
    assert len(set(LARGE.icons.values())) == 36
    assert set(LARGE.twins) == set(LARGE.partners.values())
    for partner, twin in LARGE.twins.items():
        # All that tells them apart is the mark.
        assert replace(LARGE.icons[partner], is_marked=True) == LARGE.icons[twin]


def test_twins_stand_in_for_absent_partners_at_their_rate():
    beside = []
    for scene in sample_scenes(1500, 0, 0.5, "twins", LARGE):
        for pair in LARGE.settings[scene.setting]:
            if pair.anchor in scene.names and pair.partner not in scene.names:
                beside.append(pair.twin in scene.names)
            if pair.partner in scene.names:
                assert pair.twin not in scene.names
    assert np.mean(beside) == pytest.approx(LARGE.twin_rate, abs=0.03)


def test_large_scenes_have_a_cell_for_every_object_and_icons_of_all_sizes():
    scenes = sample_scenes(800, 1, 0.85, "layouts", LARGE)
    for scene in scenes:
        sizes = {placed.size for placed in scene.objects}
        layouts = [layout for layout in LARGE.layouts if sizes <= set(layout.icon_sizes)]
        assert any(len(cells_of(scene, layout.grid)) == len(scene.objects) for layout in layouts)
        assert all(min(placed.left, placed.top) >= 0 for placed in scene.objects)
        assert all(max(placed.left, placed.top) + placed.size <= LARGE.image_size for placed in scene.objects)
    sizes = {placed.size for scene in scenes for placed in scene.objects}
    assert sizes == {size for layout in LARGE.layouts for size in layout.icon_sizes}
    # A crop of 0 to 20 % of the area enlarges by at least 1 / √0.2 = 2.2: small things then look as large as
    # large things of another scene.
    assert max(sizes) > 2.2 * min(sizes) * 1.5


@pytest.mark.parametrize("size", [9, 12, 38])
def test_a_mark_shows_through_the_noise(size):
    for partner, twin in LARGE.twins.items():
        pictures = [
            np.asarray(render(Scene("kitchen", (PlacedObject(name, 20, 20, size),), 0, LARGE)), dtype=float)
            for name in (partner, twin)
        ]
        changed = np.abs(pictures[0] - pictures[1]).mean(axis=-1) > 4 * LARGE.pixel_noise
        assert 0.05 < changed.sum() / size**2 < 0.15, (partner, twin)
