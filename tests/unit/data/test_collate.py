"""Batches: what stands in them, that nobody's neighbours matter, and what does not fit into `max_length`."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mmdpo.corruption import derive_corruption_generator
from mmdpo.corruption._geometry import crop_processed
from mmdpo.data.collate import Collator
from mmdpo.data.items import Item, Items
from mmdpo.data.pixels import LEVELS, look_up
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family
from mmdpo.objective import build_objective
from mmdpo.records import RowError

PROMPT = ["<s>", "user", *["<image>"] * 16, "describe", "assistant"]
PROMPT_TOKENS = 20


@pytest.fixture
def items(make_example):
    """Four examples of different lengths; the third has two pictures, the last one a corrupted picture of its own."""
    answers = ["cup .", "cup , plate , car .", "sure ! this kitchen shows cup .", "car , sign ."]
    examples = [make_example(n, responses={"chosen": text, "rejected": "sure !"}) for n, text in enumerate(answers)]
    examples[2] = make_example(2, images=examples[0].images + examples[1].images, responses=examples[2].responses)
    examples[3] = dataclasses.replace(examples[3], rejected_images=examples[1].images)
    return Items(examples, seed=7)


def tokens(processor, ids, mask):
    return [processor.tokenizer.convert_ids_to_tokens(row[real].tolist()) for row, real in zip(ids, mask, strict=True)]


def pixels_by_example(batch, versions=2):
    """The processed pictures of each example, all versions one after the other, by its place in the dataset."""
    size, images_of = len(batch["index"]), batch["images_of"]
    parts = look_up(batch["image_inputs"])["pixel_values"].split(batch["image_counts"].tolist())
    return {
        int(index): torch.cat([parts[images_of[version * size + place]] for version in range(versions)])
        for place, index in enumerate(batch["index"])
    }


def assert_same_pixels(found, expected):
    assert found.keys() == expected.keys()
    for index, pixels in found.items():
        assert torch.equal(pixels, expected[index]), f"example {index}"


class TestWhatStandsInABatch:
    def test_prompts_by_version_answers_by_response_padded_on_the_right(self, make_preparer, items, processor):
        batch = Collator(make_preparer())([items[0], items[2]])
        two_pictures = [*PROMPT[:2], *["<image>"] * 16, *PROMPT[2:]]
        assert tokens(processor, batch["prompt_ids"], batch["prompt_mask"]) == [PROMPT, two_pictures] * 2
        assert tokens(processor, batch["answer_ids"], batch["answer_mask"]) == [
            ["cup", ".", "</s>"],
            ["sure", "!", "this", "kitchen", "shows", "cup", ".", "</s>"],
            ["sure", "!", "</s>"],
            ["sure", "!", "</s>"],
        ]
        for mask in (batch["prompt_mask"], batch["answer_mask"]):
            assert (mask == np.minimum.accumulate(mask, axis=1)).all(), "what is real comes first"
        assert batch["image_counts"].tolist() == [1, 2, 1, 2]
        assert batch["image_inputs"]["pixel_values"].shape == (6, 3, 96, 96)
        assert batch["index"].tolist() == [0, 2]
        assert (batch["weights"], batch["ref_logprobs"]) == ({}, None)

    def test_pixels_are_those_of_the_processor_for_each_version(self, make_preparer, items, processor):
        prepare = make_preparer()
        batch = Collator(prepare)([items[1], items[3]])
        prepared = [prepare(items[1]), prepare(items[3])]
        images = [example.contexts[version].images[0] for version in ("original", "corrupted") for example in prepared]
        expected = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        assert_same_pixels(pixels_by_example(batch), {1: expected[0::2], 3: expected[1::2]})
        assert not torch.equal(expected[0], expected[2])

    def test_levels_are_no_tokens_where_as_many_prompts_are_as_long(self, make_preparer, make_example, processor):
        words = " ".join(["describe"] * (256 - PROMPT_TOKENS + 1))
        asked = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]},)
        examples = [make_example(number, prompt=asked) for number in range(3)]
        batch = Collator(make_preparer("dpo"))([Item(example, place) for place, example in enumerate(examples)])
        assert batch["prompt_ids"].shape == batch["image_inputs"][LEVELS].shape == (3, 256)
        assert batch["token_types"].keys() == set()
        pixels = processor.image_processor([example.images[0] for example in examples], return_tensors="pt")
        assert torch.equal(look_up(batch["image_inputs"])["pixel_values"], pixels["pixel_values"])

    def test_prompts_without_images_stand_among_those_with(self, make_preparer, items, processor):
        batch = Collator(make_preparer("svco"))([items[0], items[1]])
        blind = [token for token in PROMPT if token != "<image>"]
        assert tokens(processor, batch["prompt_ids"], batch["prompt_mask"]) == [
            *[PROMPT] * 2,
            *[blind] * 2,
            *[PROMPT] * 2,
        ]
        assert batch["image_counts"].tolist() == [1, 1, 0, 0, 1, 1]

    def test_an_objective_without_images_opens_none_and_carries_none(self, make_preparer, items):
        batch = Collator(make_preparer("dpo_no_image"))([items[0], items[1]])
        assert batch["image_inputs"] == {}
        assert batch["image_counts"].tolist() == [0, 0]

    def test_precomputed_references_are_stacked(self, make_preparer, items):
        items.ref_logprobs = torch.arange(12.0).view(4, 3)
        batch = Collator(make_preparer())([items[2], items[0]])
        assert batch["ref_logprobs"].tolist() == [[6, 7, 8], [0, 1, 2]]


class TestWhatIsAlike:
    @pytest.fixture
    def alike(self, make_example, picture):
        """Two questions about a picture, the first again with one answer in common, and one about another picture."""
        image = (picture(9),)
        other = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe this kitchen"}]},)
        return [
            make_example(0, images=image),
            make_example(1, images=image, prompt=other),
            make_example(2, images=image, responses={"chosen": "sure ! car .", "rejected": "cup ."}),
            make_example(3),
        ]

    def collate(self, prepare, examples):
        return Collator(prepare)([Item(example, place) for place, example in enumerate(examples)])

    def make(self, make_preparer, **options):
        prepare = make_preparer(**options)
        proven = dataclasses.replace(Family(), shares_prefix=True)
        return dataclasses.replace(prepare, renderer=dataclasses.replace(prepare.renderer, family=proven))

    def test_contexts_of_one_picture_begin_alike_and_have_its_pixels_once(self, make_preparer, alike):
        batch = self.collate(self.make(make_preparer), alike)
        # [<s> user, 16 places, describe] are alike, and what follows is not.
        assert batch["begins_as"] == [(0, 0), (0, 19), (0, PROMPT_TOKENS), *((k, 0) for k in range(3, 8))]
        assert batch["images_of"] == [0, 0, 0, 3, 4, 5, 6, 7]
        assert batch["image_counts"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]
        assert len(batch["image_inputs"]["pixel_values"]) == 6
        assert batch["answers_as"] == [0, 0, 2, 0, 2, 2, 6, 2]

    def test_drawn_for_the_picture_the_corrupted_one_is_one_too(self, make_preparer, alike):
        batch = self.collate(self.make(make_preparer, corruption_draw="picture"), alike)
        assert batch["images_of"] == [0, 0, 0, 3, 4, 4, 4, 7]
        assert [alike for _, alike in batch["begins_as"]] == [0, 19, PROMPT_TOKENS, 0] * 2
        assert len(batch["image_inputs"]["pixel_values"]) == 4

    def test_of_a_family_that_was_not_proven_equal_prompts_alone_are_alike(self, make_preparer, alike):
        prepare = self.make(make_preparer)
        both = dataclasses.replace(prepare.renderer.family, both_directions=True)
        for family in (Family(), both):
            renderer = dataclasses.replace(prepare.renderer, family=family)
            begins_as = self.collate(dataclasses.replace(prepare, renderer=renderer), alike)["begins_as"]
            assert begins_as[:3] == [(0, 0), (1, 0), (0, PROMPT_TOKENS)]

    def test_crops_behind_the_processor_are_nobodys_elses(self, make_preparer, alike):
        batch = self.collate(self.make(make_preparer, crop_space="processed"), alike)
        assert batch["images_of"] == list(range(8))
        assert [alike for _, alike in batch["begins_as"]] == [0, 19, PROMPT_TOKENS, 0, 0, 0, 0, 0]

    def test_texts_are_alike_where_that_is_worth_a_piece(self, make_preparer, alike):
        prepare, long = self.make(make_preparer, objective="dpo"), " ".join(["kitchen"] * 20)
        for texts, expected in (((f"{long} car", f"{long} cup"), 22), (("cup ?", "car ?"), 0), (("cup ?", "cup ?"), 5)):
            prompts = [({"role": "user", "content": [{"type": "text", "text": text}]},) for text in texts]
            bare = [dataclasses.replace(alike[n], images=(), prompt=prompt) for n, prompt in enumerate(prompts)]
            batch = self.collate(prepare, bare)
            assert batch["begins_as"] == [(0, 0), (0, expected) if expected else (1, 0)]
        assert batch["prompt_mask"].sum(1).tolist() == [5, 5]


class TestNobodyElseMatters:
    """Policy, reference, workers and ranks each make their own batches, and have to see the same pictures."""

    @pytest.fixture
    def alone(self, make_preparer, items):
        collate = Collator(make_preparer())
        return {place: pixels_by_example(collate([items[place]]))[place] for place in range(4)}

    @pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0]], ids=str)
    def test_batches_of_any_order_and_company(self, make_preparer, items, alone, order):
        batch = Collator(make_preparer())([items[place] for place in order])
        assert_same_pixels(pixels_by_example(batch), {place: alone[place] for place in order})

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_any_number_of_workers(self, make_preparer, items, alone, workers):
        loader = DataLoader(items, batch_size=2, collate_fn=Collator(make_preparer()), num_workers=workers)
        found = {}
        for batch in loader:
            found |= pixels_by_example(batch)
        assert_same_pixels(found, alone)

    def test_another_place_in_the_dataset(self, make_preparer, items, alone):
        moved = Items([items.examples[place] for place in (2, 3)], seed=7)
        found = pixels_by_example(Collator(make_preparer())([moved[0], moved[1]]))
        assert_same_pixels(found, {0: alone[2], 1: alone[3]})

    @pytest.mark.parametrize("crop_space", ["image", "processed"])
    def test_another_epoch_only_where_each_has_its_own(self, make_preparer, items, crop_space):
        collate = Collator(make_preparer(crop_space=crop_space))

        def corrupted(per_epoch, epoch):
            chosen = Items(items.examples[:3], seed=7, per_epoch=per_epoch)
            chosen.set_epoch(epoch)
            batch = pixels_by_example(collate([chosen[place] for place in range(3)]))
            return torch.cat([pixels.chunk(2)[1] for pixels in batch.values()])

        assert torch.equal(corrupted(False, 0), corrupted(False, 1))
        assert torch.equal(corrupted(False, 0), corrupted(True, 0))
        assert torch.equal(corrupted(True, 1), corrupted(True, 1))
        changed = corrupted(True, 0) != corrupted(True, 1)
        assert changed.flatten(1).any(1).tolist() == [True] * 4

    def test_another_seed(self, make_preparer, items, alone):
        found = pixels_by_example(Collator(make_preparer(seed=8))([items[place] for place in range(4)]))
        for place in range(3):
            original, corrupted = found[place].chunk(2)
            assert torch.equal(original, alone[place].chunk(2)[0])
            assert all(not torch.equal(*pair) for pair in zip(corrupted, alone[place].chunk(2)[1], strict=True))
        assert torch.equal(found[3], alone[3]), "the dataset's own corrupted picture depends on no seed"


class TestCropsBehindTheProcessor:
    def test_corrupted_pictures_alone_are_cropped_by_the_seed_of_each(self, make_preparer, items):
        plain = look_up(Collator(make_preparer("dpo"))([items[k] for k in range(4)])["image_inputs"])["pixel_values"]
        batch = Collator(make_preparer(crop_space="processed"))([items[place] for place in range(4)])
        original, corrupted = batch["image_inputs"]["pixel_values"].chunk(2)
        assert batch["image_inputs"].keys() == {"pixel_values"}, "values, which alone can be cropped"
        assert torch.equal(original, plain)
        for place, (example, image) in enumerate([(0, 0), (1, 0), (2, 0), (2, 1)]):
            generator = derive_corruption_generator(
                "crop_0_20", run_seed=7, example_id=f"id-{example}", image_index=image
            )
            assert torch.equal(corrupted[place], crop_processed(plain[place], generator, 0.01, 0.2))
        # The last example's own corrupted picture is the second one's, and nothing is cropped off it.
        assert torch.equal(corrupted[4], plain[1])

    def test_a_batch_without_images_has_nothing_to_crop(self, make_preparer, items):
        assert Collator(make_preparer("dpo_no_image", crop_space="processed"))([items[0]])["image_inputs"] == {}

    def test_another_corruption_that_the_objective_names_is_made_before_the_processor(self, make_preparer, items):
        terms = [{"rank": [["original", "chosen"], [name, "chosen"]]} for name in ("corrupted", "blank")]
        found, expected = (
            look_up(Collator(make_preparer(terms, crop_space=space))([items[0]])["image_inputs"])["pixel_values"]
            for space in ("processed", "image")
        )
        assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [True, False, True]

    def test_a_processor_that_gives_no_picture_per_image_is_refused(self, make_preparer, items, processor):
        class Tiles:
            """A processor that gives two tiles for each picture."""

            def __getattr__(self, name):
                return getattr(processor, name)

            def __call__(self, **arguments):
                output = processor(**arguments)
                output["pixel_values"] = output["pixel_values"].repeat(2, 1, 1, 1)
                return output

        cropped = make_preparer(crop_space="processed")
        prepare = dataclasses.replace(cropped, renderer=Renderer(Tiles(), Family()))
        with pytest.raises(ValueError, match=r"this one gives \(4, 3, 96, 96\) for 2 images\. Use crop_space"):
            Collator(prepare)([items[0]])


class TestMaxLength:
    def answers(self, batch, processor):
        return tokens(processor, batch["answer_ids"], batch["answer_mask"])

    def test_longer_answers_are_cut_at_their_end(self, make_preparer, items, processor):
        batch = Collator(make_preparer(), max_length=PROMPT_TOKENS + 3)([items[0], items[1]])
        assert self.answers(batch, processor) == [
            ["cup", ".", "</s>"],
            ["cup", ",", "plate"],
            ["sure", "!", "</s>"],
            ["sure", "!", "</s>"],
        ]

    def test_each_example_has_the_room_that_its_own_prompt_leaves(self, make_preparer, items, processor):
        batch = Collator(make_preparer(), max_length=PROMPT_TOKENS + 16 + 3)([items[2], items[1]])
        assert [len(answer) for answer in self.answers(batch, processor)] == [3, 7, 3, 3]

    @pytest.mark.parametrize("blind", [0, 1], ids=["first", "last"])
    def test_an_answer_is_cut_alike_behind_a_shorter_prompt(self, make_preparer, items, processor, blind):
        """Under ∅ the prompt is 16 tokens shorter: a difference of rewards must not be one of lengths."""
        cells = [["original", "chosen"]]
        cells.insert(blind, ["none", "chosen"])
        batch = Collator(make_preparer([{"rank": cells}]), max_length=PROMPT_TOKENS + 2)([items[1]])
        assert self.answers(batch, processor) == [["cup", ","]]

    def test_one_token_must_be_left(self, make_preparer, items, processor):
        with pytest.raises(RowError) as caught:
            Collator(make_preparer(), max_length=PROMPT_TOKENS)([items[2], items[1]][1:])
        assert str(caught.value) == (
            "pairs.json, row 2: the prompt has 20 tokens, 16 of them for images, and max_length is 20: the answer "
            "would be cut to zero tokens; raise max_length or shorten the prompt"
        )
        kept = Collator(make_preparer(), max_length=PROMPT_TOKENS + 1)([items[1]])
        assert self.answers(kept, processor) == [["cup"], ["sure"]]

    def test_image_tokens_are_never_truncated(self, make_preparer, items):
        """Of the row's 36 prompt tokens the last two are words, so that 30 cut off four of the second picture's."""
        with pytest.raises(
            RowError, match=r"^pairs\.json, row 3: the prompt has 36 tokens, 32 of them for images, and "
        ):
            Collator(make_preparer(), max_length=30)([items[0], items[2]])
        with pytest.raises(RowError, match="max_length is 30: 4 image tokens would be truncated"):
            Collator(make_preparer(), max_length=30)([items[0], items[2]])

    def test_no_limit(self, make_preparer, items, make_example):
        example = make_example(1, responses={"chosen": "cup " * 500, "rejected": "car ."})
        batch = Collator(make_preparer())([Item(example, 0)])
        assert batch["answer_mask"].sum(1).tolist() == [501, 3]


class TestEqualCells:
    def test_a_corruption_that_changes_no_pixel_of_a_row_is_a_fault_of_it(self, make_preparer, make_example):
        grey = make_example(3, images=(Image.new("RGB", (60, 40), "#7f7f7f"),))
        with pytest.raises(RowError, match=r"^pairs\.json, row 4: the images original and corrupted are the"):
            Collator(make_preparer("mdpo", "blank"))([Item(make_example(1), 0), Item(grey, 1)])
        Collator(make_preparer("dpo", "blank"))([Item(grey, 1)])

    def test_a_row_of_which_no_image_is_corrupted_says_which_option_spares_it(self, make_preparer, make_example):
        prepare = dataclasses.replace(make_preparer("mdpo"), corrupted_images="demonstrations")
        with pytest.raises(RowError, match=r"row 2: corrupted_images: demonstrations leaves .* corrupted_images: all$"):
            Collator(prepare)([Item(make_example(1), 0)])

    def test_a_copy_of_the_image_is_no_corrupted_one(self, make_preparer, make_example, picture):
        example = make_example(2, rejected_images=(picture(2),))
        with pytest.raises(RowError, match="are the same pixels"):
            Collator(make_preparer("mdpo"))([Item(example, 0)])


class TestWeights:
    def test_one_number_per_example_and_column(self, make_preparer, make_example):
        examples = [make_example(n, weights={"weight": n + 0.5, "other": 9}) for n in range(3)]
        collate = Collator(make_preparer("mmedpo"), weight_columns=("weight",))
        batch = collate([Item(example, 0) for example in examples])
        assert {name: values.tolist() for name, values in batch["weights"].items()} == {"weight": [0.5, 1.5, 2.5]}

    def test_a_row_without_its_weight_is_named(self, make_preparer, make_example):
        collate = Collator(make_preparer("mmedpo"), weight_columns=("weight",))
        good, bad = make_example(0, weights={"weight": 1.0}), make_example(4, weights={"severity": 2.0})
        with pytest.raises(RowError, match=r"^pairs\.json, row 5: .* numeric column 'weight'; the row has severity$"):
            collate([Item(good, 0), Item(bad, 1)])
        with pytest.raises(RowError, match=r"^pairs\.json, row 2: .* the row has none$"):
            collate([Item(make_example(1), 0)])


def test_a_bad_row_of_a_batch_is_named(make_preparer, items, make_example):
    bad = make_example(8, responses={"chosen": "cup .", "rejected": "cup ."})
    with pytest.raises(RowError, match=r"^pairs\.json, row 9: `chosen` and `rejected` are equal"):
        Collator(make_preparer())([items[0], Item(bad, 8)])


def test_the_cells_say_what_is_prepared(processor, items):
    """A preparer without a corruption serves an objective that corrupts nothing."""
    prepare = Preparer(Renderer(processor, Family()), build_objective("dpo").cells, {}, seed=0)
    batch = Collator(prepare)([items[0]])
    assert batch["image_counts"].tolist() == [1]


class TestEqualTokens:
    """A pair without a difference that the model could see would be trained on in vain."""

    def test_answers_that_a_cut_makes_equal_are_a_bad_row(self, make_example, make_preparer):
        pair = {"chosen": "sure ! this kitchen shows cup .", "rejected": "sure ! this kitchen shows car ."}
        items = Items([make_example(0, responses=pair)], seed=7)
        assert Collator(make_preparer(), max_length=PROMPT_TOKENS + 6)([items[0]])
        with pytest.raises(RowError, match=r"row 1: chosen and rejected are the same tokens, once cut to max_length"):
            Collator(make_preparer(), max_length=PROMPT_TOKENS + 5)([items[0]])

    def test_texts_that_the_tokenizer_reads_alike_are_a_bad_row(self, make_example, make_preparer):
        items = Items([make_example(0, responses={"chosen": "zebra .", "rejected": "giraffe ."})], seed=7)
        with pytest.raises(RowError, match=r"row 1: chosen and rejected are the same tokens, though not the same text"):
            Collator(make_preparer())([items[0]])

    def test_an_objective_without_the_rejected_answer_does_not_mind(self, make_example, make_preparer):
        items = Items([make_example(0, responses={"chosen": "zebra .", "rejected": "giraffe ."})], seed=7)
        assert Collator(make_preparer("image_dpo"))([items[0]])


def test_a_row_beyond_the_models_context_is_named(make_preparer, items):
    tokens = PROMPT_TOKENS + len(["cup", ",", "plate", ",", "car", ".", "</s>"])
    fitting = Collator(make_preparer(), context_length=tokens)([items[1]])
    assert fitting["answer_mask"].sum(1).max() == 7
    message = (
        f"pairs.json, row 2: prompt and answer have {tokens} tokens and the model reads {tokens - 1}: set max_length"
    )
    with pytest.raises(RowError, match=message):
        Collator(make_preparer(), context_length=tokens - 1)([items[0], items[1]])
