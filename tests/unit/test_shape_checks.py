"""The tests check shapes while they run: a wrong one is an error where it is made, not where it hurts."""

import jaxtyping
import pytest
import torch

from mmdpo.objective import CellScore
from mmdpo.scoring.logprobs import pick_logprobs


def test_a_record_of_tensors_that_do_not_belong_together_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="tokens"):
        CellScore(torch.zeros(3), torch.ones(2, dtype=torch.long))


def test_arguments_of_wrong_shape_or_kind_are_refused():
    logits = torch.zeros(3, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="targets"):
        pick_logprobs(logits, torch.zeros(2, dtype=torch.long))
    with pytest.raises(jaxtyping.TypeCheckError, match="targets"):
        pick_logprobs(logits, torch.zeros(3))
