"""What an example becomes: its corrupted images follow from the seed and its id, and a bad row names itself."""

import dataclasses
import weakref
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image, ImageChops

from mmdpo.data.images import open_image
from mmdpo.data.items import Item, Items
from mmdpo.data.prepare import Opened
from mmdpo.records import RowError, derive_generator

BLANK_OBJECTIVE = [
    {"rank": [["original", "chosen"], ["corrupted", "chosen"]]},
    {"rank": [["original", "chosen"], ["blank", "chosen"]]},
]


def pixels(prepared, version="corrupted"):
    return [image.tobytes() for image in prepared.contexts[version].images]


class TestCorruptedImages:
    def test_the_same_seed_and_id_give_the_same_picture(self, make_preparer, make_example):
        item = Item(make_example(1), 0)
        first = pixels(make_preparer()(item))
        assert pixels(make_preparer()(item)) == first
        # The place in the dataset, the answers and what is opened alongside play no part.
        moved = Item(dataclasses.replace(item.example, responses={"chosen": "car .", "rejected": "sure !"}), 5)
        assert pixels(make_preparer()(moved)) == first

    @pytest.mark.parametrize(
        ("seed", "example_id", "epoch", "corruption"),
        [
            (8, "id-1", 0, "crop_0_20"),
            (7, "id-2", 0, "crop_0_20"),
            (7, "id-1", 1, "crop_0_20"),
            (7, "id-1", 0, "noise"),
        ],
    )
    def test_another_seed_id_epoch_or_corruption_gives_another(
        self, make_preparer, make_example, seed, example_id, epoch, corruption
    ):
        first = pixels(make_preparer(seed=7)(Item(make_example(1), 0)))
        item = Item(make_example(1, id=example_id), 0, epoch=epoch)
        assert pixels(make_preparer(seed=seed, corruption=corruption)(item)) != first

    def test_drawn_for_the_picture_rows_that_show_it_have_the_same(
        self, make_preparer, make_example, picture, tmp_path
    ):
        file, copy = tmp_path / "a.png", tmp_path / "b.png"
        for path in (file, copy):
            picture(3).save(path)
        rows = [make_example(n, images=(source,)) for n, source in enumerate((file, copy, copy.read_bytes()))]
        of_row, of_picture = (make_preparer(corruption_draw=draw) for draw in ("row", "picture"))
        assert len({tuple(pixels(of_row(Item(row, 0)))) for row in rows}) == 3
        found = [pixels(of_picture(Item(row, n))) for n, row in enumerate(rows)]
        assert found[0] == found[1] == found[2]
        assert found[0] != pixels(of_picture(Item(rows[0], 0, epoch=1)))
        assert found[0] != pixels(of_picture(Item(make_example(0), 0)))

    def test_an_open_picture_is_held_as_long_as_its_id_stands_for_it(self, make_example, make_preparer):
        opened, prepare = Opened(), make_preparer()
        shown = [Image.new("RGB", (60, 40), "red")]
        prepare.make_images(Item(make_example(0, images=tuple(shown)), 0), "original", opened)
        held = weakref.ref(shown.pop())
        assert held() is not None

    def test_pictures_of_a_batch_are_opened_and_corrupted_once(self, make_preparer, make_example, picture, tmp_path):
        picture(3).save(tmp_path / "a.png")
        rows = [make_example(n, images=(tmp_path / "a.png",)) for n in range(2)]
        opened = Opened()
        one, other = (make_preparer()(Item(row, 0), opened).contexts for row in rows)
        assert one["original"].images[0] is other["original"].images[0]
        assert one["corrupted"].images[0] is not other["corrupted"].images[0]
        assert len(opened.pictures) == 3
        opened = Opened()
        one, other = (make_preparer(corruption_draw="picture")(Item(row, 0), opened).contexts for row in rows)
        assert one["corrupted"].images[0] is other["corrupted"].images[0]

    def test_the_original_is_shown_as_it_is(self, make_preparer, make_example, picture):
        prepared = make_preparer()(Item(make_example(1), 0))
        assert pixels(prepared, "original") == [picture(1).tobytes()]
        assert prepared.contexts["corrupted"].images[0].size == (60, 40)
        assert pixels(prepared) != pixels(prepared, "original")
        assert prepared.contexts["corrupted"].text == prepared.contexts["original"].text

    def test_each_of_several_images_is_corrupted_by_a_draw_of_its_own(self, make_preparer, make_example, picture):
        prepared = make_preparer()(Item(make_example(1, images=(picture(1), picture(1), picture(2))), 0))
        first, second, third = pixels(prepared)
        assert first != second, "equal pictures, other crops"
        assert first == pixels(make_preparer()(Item(make_example(1), 0)))[0]
        assert pixels(prepared, "original") == [picture(n).tobytes() for n in (1, 1, 2)]
        assert prepared.contexts["corrupted"].text.count("<image>") == 3
        assert third not in (first, second)

    @pytest.mark.parametrize("crop_space", ["image", "processed"])
    @pytest.mark.parametrize("corruption", ["crop_0_20", "random_image"])
    def test_the_datasets_own_corrupted_images_win(self, make_preparer, make_example, picture, corruption, crop_space):
        own = (picture(50), picture(51))
        example = make_example(1, images=(picture(1), picture(2)), rejected_images=own)
        prepared = make_preparer(corruption=corruption, crop_space=crop_space)(Item(example, 0))
        assert pixels(prepared) == [image.tobytes() for image in own]
        assert pixels(prepared, "original") == [picture(1).tobytes(), picture(2).tobytes()]

    def test_they_stand_for_the_corrupted_version_alone(self, make_preparer, make_example, picture):
        prepared = make_preparer(BLANK_OBJECTIVE)(Item(make_example(1, rejected_images=(picture(50),)), 0))
        assert pixels(prepared) == [picture(50).tobytes()]
        assert len(set(prepared.contexts["blank"].images[0].getdata())) == 1

    def test_cropping_behind_the_processor_leaves_the_pictures_alone_here(self, make_preparer, make_example, picture):
        prepared = make_preparer(crop_space="processed")(Item(make_example(1), 0))
        assert pixels(prepared) == pixels(prepared, "original") == [picture(1).tobytes()]


class TestRandomImage:
    def test_it_is_the_picture_of_another_example_never_ones_own(self, make_preparer, make_example, picture):
        examples = [make_example(number) for number in range(6)]
        prepare = make_preparer("mdpo", "random_image")
        shown = set()
        for seed in range(5):
            items = Items(examples, seed=seed, draw_others=True)
            for own in range(6):
                (other,) = pixels(prepare(items[own]))
                assert other in {picture(number).tobytes() for number in range(6) if number != own}
                shown.add((own, other))
        assert len(shown) > 20, "of 30 pairs of examples"

    def test_examples_with_the_same_picture_or_none_are_passed_over(self, make_example, picture):
        examples = [make_example(n, images=(picture(0),)) for n in range(3)]
        examples += [make_example(3, images=()), make_example(4)]
        for seed in range(20):
            items = Items(examples, seed=seed, draw_others=True)
            assert [items[place].other_images for place in range(3)] == [examples[4].images] * 3

    def test_who_it_is_follows_from_seed_and_id_not_from_the_epoch_unless_asked(self, make_example):
        examples = [make_example(number) for number in range(20)]

        def others(seed, epoch, per_epoch=False):
            items = Items(examples, seed=seed, draw_others=True, per_epoch=per_epoch)
            items.set_epoch(epoch)
            return [items[place].other_images[0].tobytes() for place in range(20)]

        assert others(0, 0) == others(0, 0) == others(0, 3) == others(0, 0, per_epoch=True)
        assert len(set(others(0, 0))) > 5, "each example has a draw of its own"
        assert others(1, 0) != others(0, 0) != others(0, 3, per_epoch=True)

    def test_every_image_of_an_example_is_replaced(self, make_preparer, make_example, picture):
        example = make_example(0, images=tuple(map(picture, range(3))))
        others = tuple(map(picture, (10, 11, 10)))
        prepared = make_preparer(corruption="random_image")(Item(example, 0, other_images=others))
        assert pixels(prepared) == [other.tobytes() for other in others]

    def test_a_picture_is_one_however_it_is_stored_and_however_many_rows_show_it(self, make_example, picture, tmp_path):
        """Of three pictures, one fills a block of 30 rows: the others are drawn as often, and a copy never."""
        files = []
        for number, place in enumerate([0] * 30 + [1, 2, 2]):
            picture(place).save(tmp_path / f"{number}.png")
            files.append(tmp_path / f"{number}.png")
        files[4] = files[5].read_bytes()
        examples = [make_example(number, images=(file,)) for number, file in enumerate(files)]
        names = {open_image(files[place]).tobytes(): name for place, name in ((0, "block"), (30, "one"), (31, "two"))}
        counts = {}
        for seed in range(100):
            items = Items(examples, seed=seed, draw_others=True)
            for row in (0, 4, 29, 30, 31, 32):
                (other,) = items[row].other_images
                counts.setdefault(row, Counter())[names[open_image(other).tobytes()]] += 1
        assert all(set(counts[row]) == {"one", "two"} for row in (0, 4, 29))
        assert set(counts[30]) == {"block", "two"}
        assert set(counts[31]) == set(counts[32]) == {"block", "one"}
        assert all(35 <= count <= 65 for row in counts.values() for count in row.values())

    def test_of_several_images_none_is_one_of_the_rows_own_and_no_two_are_alike(self, make_example, picture):
        shared = [picture(number) for number in range(5)]
        examples = [make_example(n, images=(shared[n], shared[(n + 1) % 5])) for n in range(5)]
        for seed in range(40):
            items = Items(examples, seed=seed, draw_others=True)
            for item in (items[row] for row in range(5)):
                others = [image.tobytes() for image in item.other_images]
                assert len(set(others)) == 2
                assert not set(others) & {image.tobytes() for image in item.example.images}

    def test_files_are_read_only_where_others_have_their_size(self, make_example, picture, tmp_path, monkeypatch):
        examples = []
        for number in range(6):
            (tmp_path / f"{number}.bin").write_bytes(b"x" * (100 + number))
            examples.append(make_example(number, images=(tmp_path / f"{number}.bin",)))
        monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
        assert Items(examples, seed=0, draw_others=True)[0].other_images[0] != examples[0].images[0]

    def test_without_another_example_it_is_refused(self, make_preparer, make_example, picture):
        with pytest.raises(ValueError, match="the dataset has one row only"):
            Items([make_example(0)], seed=0, draw_others=True)[0]
        twins = [make_example(n, images=(picture(0),)) for n in range(3)]
        with pytest.raises(RowError, match=r"^pairs\.json, row 2: .* no other example has a different one"):
            Items(twins, seed=0, draw_others=True)[1]
        with pytest.raises(RowError, match=r"^pairs.json, row 1: the corruption shows another example's image, and no"):
            make_preparer(corruption="random_image")(Item(make_example(0), 0))


class TestItems:
    def test_the_epoch_stays_zero_unless_each_has_its_own_corruption(self, make_example):
        fixed, fresh = (Items([make_example(0)], seed=0, per_epoch=flag) for flag in (False, True))
        for items in (fixed, fresh):
            items.set_epoch(2)
        assert (fixed[0].epoch, fresh[0].epoch) == (0, 2)
        assert (fixed[0].other_images, fixed[0].ref_logprobs) == ((), None)


class TestText:
    def test_no_image_deletes_the_placeholder_of_chat_turns(self, make_preparer, make_example, processor):
        prepared = make_preparer("svco")(Item(make_example(1), 0))
        assert prepared.contexts["none"].text == "<s>user describe assistant"
        assert prepared.contexts["none"].images == ()
        assert prepared.contexts["original"].text == "<s>user <image> describe assistant"
        answer = processor.tokenizer.convert_ids_to_tokens(prepared.answers["chosen"])
        assert answer == ["cup", ",", "plate", ".", "</s>"]

    def test_no_image_deletes_the_placeholder_of_plain_text_with_its_line(self, make_preparer, make_example):
        example = make_example(1, prompt="user <image>\ndescribe assistant")
        prepared = make_preparer("svco")(Item(example, 0))
        assert prepared.contexts["none"].text.endswith("user describe assistant")
        assert prepared.contexts["corrupted"].text.endswith("user <image>\ndescribe assistant")

    def test_answers_are_uncut_and_only_those_that_the_objective_reads(self, make_preparer, make_example):
        example = make_example(1, responses={"chosen": "cup , " * 100 + "cup .", "rejected": "car .", "aside": ""})
        prepared = make_preparer()(Item(example, 0))
        assert {name: len(ids) for name, ids in prepared.answers.items()} == {"chosen": 203, "rejected": 3}
        assert list(make_preparer("image_dpo")(Item(example, 0)).answers) == ["chosen"]


def changed(prepared):
    """Per image, the bounding box (left, top, right, bottom) of the pixels that the corruption changed."""
    pairs = zip(prepared.contexts["original"].images, prepared.contexts["corrupted"].images, strict=True)
    return [ImageChops.difference(*pair).getbbox() for pair in pairs]


class TestWhereAnImageIsCorrupted:
    MASK = Image.new("L", (60, 40))
    MASK.paste(255, (10, 5, 30, 25))

    @pytest.mark.parametrize(
        "region", [MASK, ((10.0, 5.0, 20.0, 25.0), (20.0, 5.0, 30.0, 25.0))], ids=["mask", "boxes"]
    )
    def test_noise_lies_on_the_region_alone(self, make_preparer, make_example, region):
        prepared = make_preparer("mdpo", "noise_region")(Item(make_example(1, regions=(region,)), 0))
        assert changed(prepared) == [(10, 5, 30, 25)]

    @pytest.mark.parametrize(
        ("regions", "message"),
        [
            ((), "marks them in 0: add a column `mask`"),
            ((Image.new("L", (60, 41)),), "a mask is 60 × 41 pixels and its image 60 × 40"),
            ((((0.0, 0.0, 61.0, 10.0),),), r"the box \[0, 0, 61, 10\] is none of an image of 60 × 40"),
            ((((5.0, 0.0, 5.0, 10.0),),), r"the box \[5, 0, 5, 10\] is none"),
        ],
    )
    def test_a_region_that_does_not_fit_is_a_fault_of_its_row(self, make_preparer, make_example, regions, message):
        with pytest.raises(RowError, match=rf"^pairs\.json, row 2: .*{message}"):
            make_preparer("mdpo", "noise_region")(Item(make_example(1, regions=regions), 0))

    def test_other_corruptions_do_not_look_at_it(self, make_preparer, make_example):
        prepared = make_preparer("mdpo", "noise")(Item(make_example(1, regions=(self.MASK,)), 0))
        assert changed(prepared) == [(0, 0, 60, 40)]

    def test_of_demonstrations_all_images_but_the_last(self, make_preparer, make_example, picture):
        example = make_example(1, images=(picture(1), picture(2), picture(3)))
        prepared = make_preparer("mdpo", "noise", corrupted_images="demonstrations")(Item(example, 0))
        assert changed(prepared) == [(0, 0, 60, 40), (0, 0, 60, 40), None]


class TestWhetherARowIsCorrupted:
    """MMedPO's rows: another answer under the same image, or the same answer under a noised one."""

    SAME: ClassVar = {"chosen": "cup .", "rejected": "cup ."}

    def is_corrupted(self, prepare, example):
        contexts = prepare(Item(example, 0)).contexts
        return contexts["corrupted"].images[0].tobytes() != contexts["original"].images[0].tobytes()

    def test_mmedpo_corrupts_where_answers_are_equal(self, make_preparer, make_example):
        prepare = make_preparer("mmedpo", "noise")
        assert self.is_corrupted(prepare, make_example(1, responses=self.SAME))
        assert not self.is_corrupted(prepare, make_example(1))

    def test_a_row_that_says_it_is_believed(self, make_preparer, make_example, picture):
        prepare = make_preparer("mmedpo", "noise")
        assert self.is_corrupted(prepare, make_example(1, is_corrupted=True))
        assert self.is_corrupted(prepare, make_example(1, rejected_images=(picture(5),)))
        with pytest.raises(RowError, match=r"^pairs\.json, row 2: .*the images themselves, and `chosen` equals"):
            prepare(Item(make_example(1, is_corrupted=False, responses=self.SAME), 0))

    def test_other_objectives_corrupt_every_row_unless_it_says_no(self, make_preparer, make_example):
        assert self.is_corrupted(make_preparer("mdpo", "noise"), make_example(1))
        with pytest.raises(RowError, match="the images themselves"):
            make_preparer("mdpo", "noise")(Item(make_example(1, is_corrupted=False), 0))


class TestBadRows:
    @pytest.mark.parametrize(
        ("objective", "fields", "problem"),
        [
            ("mdpo", {"responses": {"chosen": "cup ."}}, "there is no `rejected`"),
            ("mdpo", {"responses": {"chosen": " ", "rejected": "car ."}}, "`chosen` is empty"),
            ("symmpo", {}, "there is no `alternative`"),
            (
                "mdpo",
                {"images": (), "prompt": "describe"},
                "needs the image version 'corrupted' and the row has no image",
            ),
            ("mdpo", {"prompt": "user describe"}, "0 places for 1 image"),
            ("mdpo", {"images": ("nowhere.png",)}, "image file nowhere.png does not exist"),
            ("mdpo", {"rejected_images": ("nowhere.png",)}, "image file nowhere.png does not exist"),
        ],
        ids=str,
    )
    def test_the_row_is_named_once(self, make_preparer, make_example, objective, fields, problem):
        with pytest.raises(RowError) as caught:
            make_preparer(objective)(Item(make_example(3, **fields), 3))
        assert caught.value.source == "pairs.json, row 4"
        assert str(caught.value).startswith(f"pairs.json, row 4: {caught.value.problem}")
        assert str(caught.value).count("pairs.json") == 1
        assert problem in caught.value.problem

    def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(self, make_preparer, make_example):
        with pytest.raises(
            RowError, match=r"row 2: the image in memory is too large\. 60 × 40 = 2400 pixels, limit 2399"
        ):
            make_preparer(max_image_pixels=2399)(Item(make_example(1), 0))


def test_generators_differ_by_every_argument():
    arguments = [
        (0, "a", "p", 0),
        (1, "a", "p", 0),
        (0, "b", "p", 0),
        (0, "a", "q", 0),
        (0, "a", "p", 1),
        (0, "a1", "p", 0),
    ]
    draws = [derive_generator(*given).random() for given in arguments]
    assert len(set(draws)) == len(arguments)
    assert derive_generator(*arguments[0]).random() == draws[0]
