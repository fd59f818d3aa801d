"""More processes than the machine has processors: said once, by the main process, in a line of ours."""

import logging
import os
from types import SimpleNamespace

import pytest

from mmdpo.training.run import _look_at_workers


@pytest.mark.parametrize(
    ("loader", "rows", "rank", "told"),
    [
        (4, 8, 0, "dataloader_num_workers 4 and dataset_num_proc 8: more than the 2 processors of this machine"),
        (2, 8, 0, "dataset_num_proc 8: more than"),
        (2, None, 0, ""),
        (4, 8, 1, ""),
    ],
)
def test_it_is_said_where_it_may_cost_time(loader, rows, rank, told, monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    args = SimpleNamespace(dataloader_num_workers=loader, dataset_num_proc=rows, process_index=rank)
    with caplog.at_level(logging.WARNING, logger="mmdpo"):
        _look_at_workers(args)
    assert [record.getMessage().startswith(told) for record in caplog.records] == [True] * bool(told)
