"""Fillers stand behind the rows, as many as processes need, and orders depend on seed and epoch alone."""

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader, SequentialSampler

from mmdpo.data.items import Filler
from mmdpo.training.fillers import FilledSampler, GroupedByLength, Rebalanced, fill_last_batch


def shares(rows, processes, batch_size, **options):
    """Returns what each process is given: a batch is its places, None for a filler."""
    given = []
    for rank in range(processes):
        loader = DataLoader(
            range(rows), batch_size=batch_size, sampler=SequentialSampler(range(rows)), collate_fn=list,
            drop_last=options.get("drop_last", False),
        )  # fmt: skip
        prepared = prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)
        fill_last_batch(prepared)
        given.append([[None if isinstance(k, Filler) else k for k in batch] for batch in prepared.batch_sampler])
    return given


def test_the_last_batch_of_all_is_filled():
    assert shares(9, 2, 2) == [[[0, 1], [4, 5], [8, None]], [[2, 3], [6, 7], [None, None]]]
    assert shares(8, 2, 2) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert shares(1, 3, 2) == [[[0, None]], [[None, None]], [[None, None]]]


def test_a_resumed_epoch_ends_with_the_same_fillers():
    loader = DataLoader(range(9), batch_size=2, sampler=SequentialSampler(range(9)), collate_fn=list)
    prepared = prepare_data_loader(loader, num_processes=2, process_index=0, put_on_device=False)
    fill_last_batch(prepared)
    batches = list(skip_first_batches(prepared, 2).batch_sampler)
    assert batches == [[8, 8]]
    assert [isinstance(place, Filler) for place in batches[0]] == [False, True]


def test_one_process_and_dropped_batches_need_none():
    assert shares(5, 1, 2) == [[[0, 1], [2, 3], [4]]]
    assert shares(9, 2, 2, drop_last=True) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_a_filler_repeats_a_row_of_the_dataset():
    places = list(FilledSampler([3, 1, 2], 4))
    assert places == [3, 1, 2, 2]
    assert [isinstance(place, Filler) for place in places] == [False, False, False, True]


@pytest.mark.parametrize("processes", [1, 2])
def test_micro_batches_that_are_rebalanced_are_filled(processes):
    lengths = [5, 9, 3, 8, 4, 7, 6, 2, 9]
    real, fillers = [], 0
    for rank in range(processes):
        parts = dict(effective_batch_size=4, dp_size=processes, grad_accum=4 // processes, rank=rank)
        sampler = Rebalanced(lengths=lengths, drop_last=False, **parts)
        batches = list(sampler)
        assert len(batches) == 3 * 4 // processes
        for batch in batches:
            real += [place for place in batch if not isinstance(place, Filler)]
            fillers += sum(isinstance(place, Filler) for place in batch)
    assert sorted(real) == list(range(9))
    assert fillers == 3


def test_the_order_by_length_hangs_on_seed_and_epoch_alone():
    lengths = [1 + k % 7 for k in range(64)]

    def order(seed, epoch):
        sampler = GroupedByLength(4, lengths, seed)
        sampler.set_epoch(epoch)
        torch.rand(1)  # what others draw must not matter
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert sorted(order(1, 3)) == list(range(64))
