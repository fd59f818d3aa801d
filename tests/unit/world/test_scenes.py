from collections import Counter

import numpy as np
import pytest

from mmdpo.world import LARGE, SMALL
from mmdpo.world.drawings import COLOURS, COLOURS_OF, draw_object, object_pixels
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
            assert placed.size in SMALL.layouts[0].object_sizes
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


def place(name, size, **look):
    return PlacedObject(name, 20, 20, size, look.pop("colour", COLOURS_OF[name][0]), **look)


def picture_of(placed, world=LARGE):
    return np.asarray(render(Scene("kitchen", (placed,), 0, world)), dtype=float)


def test_every_object_is_seen_and_stays_in_its_square():
    empty = np.asarray(render(Scene("kitchen", (), 0, LARGE)), dtype=float)
    for name in LARGE.objects:
        for size in (18, 64):
            # Same seed, same noise: pixels differ only where the object is.
            changed = np.abs(picture_of(place(name, size, turn=10)) - empty).max(axis=-1) > 1
            inside = changed[20 : 20 + size, 20 : 20 + size]
            assert changed.sum() == inside.sum() > 0.25 * size**2, name


@pytest.mark.parametrize("look", [{"colour": "teal"}, {"turn": -10}, {"is_mirrored": True}, {}])
def test_colour_turn_and_mirror_change_the_picture_and_nothing_else_does(look):
    same = np.array_equal(picture_of(place("kettle", 22, **look)), picture_of(place("kettle", 22)))
    assert same == (look == {})


def test_most_colours_are_shared_so_that_shape_tells_objects_apart():
    assert set(COLOURS_OF) == set(LARGE.objects)
    users = Counter(colour for name in SMALL.objects for colour in COLOURS_OF[name])
    assert all(any(users[colour] >= 3 for colour in COLOURS_OF[name]) for name in SMALL.objects)
    assert all(len(set(colours)) == 3 and set(colours) <= set(COLOURS) for colours in COLOURS_OF.values())


def test_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"co_occurrence is a probability.*85"):
        sample_scene(np.random.default_rng(0), 85)


def test_large_world_has_a_twin_for_every_partner_in_the_same_colours():
    assert len(LARGE.objects) == len(set(LARGE.objects)) == 36
    assert set(LARGE.twins) == set(LARGE.partners.values())
    assert all(COLOURS_OF[partner] == COLOURS_OF[twin] for partner, twin in LARGE.twins.items())


def test_twins_stand_in_for_absent_partners_at_their_rate():
    beside = []
    for scene in sample_scenes(1500, 0, 0.5, "twins", LARGE):
        for pair in LARGE.settings[scene.setting]:
            if pair.anchor in scene.names and pair.partner not in scene.names:
                beside.append(pair.twin in scene.names)
            if pair.partner in scene.names:
                assert pair.twin not in scene.names
    assert np.mean(beside) == pytest.approx(LARGE.twin_rate, abs=0.03)


def test_large_scenes_have_a_cell_for_every_object_and_objects_of_all_sizes():
    scenes = sample_scenes(800, 1, 0.85, "layouts", LARGE)
    for scene in scenes:
        sizes = {placed.size for placed in scene.objects}
        layouts = [layout for layout in LARGE.layouts if sizes <= set(layout.object_sizes)]
        assert any(len(cells_of(scene, layout.grid)) == len(scene.objects) for layout in layouts)
        assert all(min(placed.left, placed.top) >= 0 for placed in scene.objects)
        assert all(max(placed.left, placed.top) + placed.size <= LARGE.image_size for placed in scene.objects)
    sizes = {placed.size for scene in scenes for placed in scene.objects}
    assert sizes == {size for layout in LARGE.layouts for size in layout.object_sizes}
    # A crop of 0 to 20 % of the area enlarges by at least 1 / √0.2 = 2.2: small things then look as large as
    # large things of another scene.
    assert max(sizes) > 2.2 * min(sizes) * 1.5


@pytest.mark.parametrize("size", [18, 30, 64])
def test_what_tells_twins_apart_shows_through_the_noise(size):
    for partner, twin in LARGE.twins.items():
        changed = np.abs(picture_of(place(partner, size)) - picture_of(place(twin, size))).mean(axis=-1)
        share = (changed > 4 * LARGE.pixel_noise).sum() / size**2
        # A detail, and no other object: less than half of the square.
        assert 0.05 < share < 0.5, (partner, twin)


def test_an_object_is_drawn_mirrored_and_in_every_size_as_alone():
    for is_mirrored in (False, True):
        drawn = object_pixels("cup", "red", 0, is_mirrored, (16, 32))
        for size in (16, 32):
            plain = np.asarray(draw_object("cup", "red", size))
            assert np.array_equal(drawn[size], plain[:, ::-1] if is_mirrored else plain)
    assert not np.array_equal(plain, plain[:, ::-1])
