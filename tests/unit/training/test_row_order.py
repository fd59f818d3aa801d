"""Padding rows stand after the rows, as many as processes need, and orders depend on seed and epoch alone."""

from functools import cache

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

import small_trainer
from mmdpo.data.items import PaddingRow
from mmdpo.training.recipe import parse_recipe
from mmdpo.training.row_order import RebalancedBatches, RowOrder, order_by_picture
from mmdpo.world.pairs import make_pairs

FIRST_EPOCH = {
    "random": [13, 2, 18, 20, 7, 6, 17, 23, 4, 21, 14, 11, 16, 1, 5, 15, 22, 3, 10, 0, 12, 9, 19, 8],
    "group_by_length": [20, 6, 18, 13, 7, 2, 4, 23, 17, 14, 21, 11, 1, 16, 5, 22, 3, 15, 10, 19, 12, 8, 0, 9],
    "batch_rebalance": [6, 15, 22, 2, 10, 19, 18, 3, 17, 14, 4, 13, 8, 9, 1, 5, 23, 12, 20, 21, 7, 11, 16, 0],
    "sequential": [*range(24)],
}
"""As they were before the orders were made here, on one process: a run of that time is resumed amid an epoch.

That by length is of the redrawn world, whose answers have other lengths. That of `batch_rebalance` is of the seed 42,
whatever the run's was then.
"""


def prepare(rows, batch_size, processes=1, rank=0, **options):
    order = RowOrder(rows, multiple=1 if processes == 1 or options else batch_size * processes)
    loader = DataLoader(range(rows), batch_size=batch_size, sampler=order, collate_fn=list, **options)
    return prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)


def shares(rows, processes, batch_size, **options):
    """Returns what each process is given: a batch is its places, None for a padding row."""
    given = [prepare(rows, batch_size, processes, rank, **options).batch_sampler for rank in range(processes)]
    return [[[None if isinstance(k, PaddingRow) else k for k in batch] for batch in share] for share in given]


def test_the_last_batch_of_all_is_filled():
    assert shares(9, 2, 2) == [[[0, 1], [4, 5], [8, None]], [[2, 3], [6, 7], [None, None]]]
    assert shares(8, 2, 2) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert shares(1, 3, 2) == [[[0, None]], [[None, None]], [[None, None]]]


def test_a_resumed_epoch_ends_with_the_same_padding_rows():
    batches = list(skip_first_batches(prepare(9, 2, processes=2), 2).batch_sampler)
    assert batches == [[8, 8]]
    assert [isinstance(place, PaddingRow) for place in batches[0]] == [False, True]


def test_one_process_and_dropped_batches_need_none():
    assert shares(5, 1, 2) == [[[0, 1], [2, 3], [4]]]
    assert shares(9, 2, 2, drop_last=True) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_a_padding_row_repeats_a_row_of_the_dataset():
    places = list(RowOrder(3, lambda _: [2, 0, 1], multiple=4))
    assert places == [2, 0, 1, 1]
    assert [isinstance(place, PaddingRow) for place in places] == [False, False, False, True]


@pytest.mark.parametrize("rows", [9, 3], ids=["a few are left for the last step", "fewer rows than batches of a step"])
def test_micro_batches_that_are_rebalanced_are_filled(rows):
    lengths = [5, 9, 3, 8, 4, 7, 6, 2, 9][:rows]
    batches = list(RebalancedBatches(lengths, step_size=4, batches_per_step=4, drop_last=False))
    assert len(batches) == -(-rows // 4) * 4
    places = [place for batch in batches for place in batch]
    real = [place for place in places if not isinstance(place, PaddingRow)]
    assert sorted(real) == list(range(rows))
    assert len(places) - len(real) == -rows % 4


def test_processes_take_rebalanced_batches_in_turn():
    given = []
    for rank in range(2):
        sampler = RebalancedBatches([5, 9, 3, 8, 4, 7, 6, 2], step_size=4, batches_per_step=2, drop_last=False)
        loader = DataLoader(range(8), batch_sampler=sampler, collate_fn=list)
        prepared = prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        given.append(list(prepared.batch_sampler))
    assert [len(share) for share in given] == [2, 2]
    assert sorted(place for share in given for batch in share for place in batch) == list(range(8))


def batches_of(pictures, size, seed=0):
    order = order_by_picture(pictures, size, torch.Generator().manual_seed(seed))
    assert sorted(order) == list(range(len(pictures)))
    return [order[n : n + size] for n in range(0, len(order), size)]


def test_rows_of_a_picture_are_in_one_batch():
    pictures = [(n % 6,) for n in range(24)]
    for size in (2, 4):
        batches = batches_of(pictures, size)
        assert all(len({pictures[place] for place in batch}) == 1 for batch in batches)
    pairs = [{pictures[place] for place in batch} for batch in batches_of(pictures, 8)]
    assert all(len(shown) == 2 for shown in pairs)
    assert batches_of(pictures, 4) != batches_of(pictures, 4, seed=1)


def test_single_rows_fill_up_what_a_picture_leaves_and_texts_show_none():
    pictures = [(0,)] * 3 + [(1,)] * 3 + [(2,), ()] + [(3, 4), (3, 4), (), ()]
    for seed in range(5):
        batches = batches_of(pictures, 4, seed)
        for of_picture in ({0, 1, 2}, {3, 4, 5}, {8, 9}):
            assert sum(bool(of_picture & set(batch)) for batch in batches) == 1


def test_the_last_batch_is_the_one_that_is_not_full():
    pictures = [(0,), (0,), (1,), (1,), (2,), (2,), (3,)]
    for seed in range(5):
        assert [len(batch) for batch in batches_of(pictures, 4, seed)] == [4, 3]


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance", "sequential"])
def test_orders_depend_on_seed_and_epoch_alone(tmp_path, strategy):
    rows = make_pairs(24, seed=5)

    @cache
    def build(seed):
        return small_trainer.build_trainer(
            tmp_path, rows, train_sampling_strategy=strategy, data_seed=seed, per_device_train_batch_size=2,
            precompute_ref_log_probs=False,
        )  # fmt: skip

    def order(epoch, seed=1):
        trainer = build(seed)
        loader = trainer.get_train_dataloader()
        trainer.rows.set_epoch(epoch)
        torch.rand(1)  # what others draw must not matter
        return [place for batch in loader.batch_sampler for place in batch]

    assert sorted(order(3)) == list(range(24))
    assert order(0, seed=42 if strategy == "batch_rebalance" else 1) == FIRST_EPOCH[strategy]
    assert (order(0) == order(1)) == (strategy == "sequential")
    assert (order(0) == order(0, seed=2)) == (strategy == "sequential")


def show_one_picture_to_each_four(rows):
    rows = list(rows)
    return [{**row, "images": rows[place - place % 4]["images"]} for place, row in enumerate(rows)]


def build(tmp_path, rows, **options):
    return small_trainer.build_trainer(tmp_path, rows, **{"train_sampling_strategy": "group_by_image", **options})


def test_a_run_groups_its_rows_by_picture_and_says_so(tmp_path, caplog):
    rows = show_one_picture_to_each_four(make_pairs(24, seed=5))
    with caplog.at_level("INFO"):
        trainer = build(tmp_path, rows)
        batches = [[*batch] for batch in trainer.get_train_dataloader().batch_sampler]
    assert sorted(sorted(batch) for batch in batches) == [[*range(n, n + 4)] for n in range(0, 24, 4)]
    assert "24 rows show 6 pictures, a picture up to 4 rows; up to 4 rows with one picture" in caplog.text


def test_a_run_without_repetition_is_told_so(tmp_path, caplog):
    trainer = build(tmp_path, make_pairs(8, seed=5))
    trainer.get_train_dataloader()
    assert "no two rows show the same picture" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(per_device_train_batch_size=1), "per_device_train_batch_size is 1: raise it"),
        (dict(corruption_draw="picture", corruption="random_image"), "shows another picture for each row"),
    ],
)
def test_what_cannot_be_brought_together_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, make_pairs(8, seed=5), **options)


def test_a_recipe_may_ask_for_it(tmp_path):
    options = ["--model_name_or_path", "world", "--dataset_name", "world", "--output_dir", str(tmp_path / "run")]
    recipe = parse_recipe([*options, "--train_sampling_strategy", "group_by_image", "--corruption_draw", "picture"])
    assert recipe.training.train_sampling_strategy == "group_by_image"
    with pytest.raises(ValueError, match="train_sampling_strategy must be one of random, sequential"):
        build(tmp_path, make_pairs(8, seed=5), train_sampling_strategy="group_by_colour")
