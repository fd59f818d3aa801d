"""What policy and reference say of cells, written as numbers."""

import pytest
import torch

from mmdpo.objective import CellScore
from mmdpo.records import Cell


@pytest.fixture(scope="session")
def make_scores():
    def make(cells, *, dtype=torch.float64, requires_grad=False):
        """`cells` maps (image, response) to log-prob, reference (or None) and tokens (5); numbers, or lists of them."""
        scores = {}
        for cell, (logprob, reference, *tokens) in cells.items():
            logprobs = torch.tensor(logprob, dtype=dtype).reshape(-1).requires_grad_(requires_grad)
            counts = torch.tensor(tokens[0] if tokens else 5).expand(len(logprobs))
            references = None if reference is None else torch.tensor(reference, dtype=dtype).reshape(-1)
            scores[Cell(*cell)] = CellScore(logprobs, counts, references)
        return scores

    return make
