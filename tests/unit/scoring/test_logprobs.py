"""Log-probabilities of answers by hand, their gradients, and what the output head is given."""

import math

import pytest
import torch
from torch import nn

from mmdpo.scoring import logprobs
from mmdpo.scoring.logprobs import answer_logprobs_only, answer_positions_only, pick_logprobs, sum_by_cell

# Five answer tokens in three rows of four; the third and the fourth are predicted at the same place.
PREDICTS = torch.tensor([1, 2, 6, 6, 11])
TARGETS = torch.tensor([3, 0, 6, 2, 2])


def make_head(bias, trained, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(5, 7, bias=bias, dtype=dtype).requires_grad_(trained)


def make_hidden(dtype=torch.float64):
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


def score(head, hidden, targets=TARGETS):
    with answer_logprobs_only(head, PREDICTS, targets):
        return head(hidden)


def score_densely(head, hidden):
    """With the logits of every position."""
    return head(hidden).log_softmax(-1).flatten(0, 1)[PREDICTS].gather(1, TARGETS[:, None])[:, 0]


def differentiate(head, hidden, values):
    """The gradients of a sum in which every token has another weight."""
    weights = torch.linspace(-1, 2, values.numel(), dtype=values.dtype)
    inputs = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    return torch.autograd.grad((weights * values.flatten()).sum(), inputs)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_value_by_hand():
    # Probabilities (¼, ¾), (½, ½) and (⅕, ⅘).
    logits = torch.tensor([[0, math.log(3)], [7, 7], [-2, -2 + math.log(4)]])
    found = pick_logprobs(logits, torch.tensor([1, 0, 0]))
    assert found.tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 2), math.log(1 / 5)])


def test_logits_of_16_bits_are_normalised_in_float32():
    logits = torch.tensor([[0.5, 9.0], [0.25, 3.0], [2.0, 0.0]], dtype=torch.bfloat16)
    found = pick_logprobs(logits, torch.tensor([0, 1, 1]))
    assert found.dtype == torch.float32
    expected = [-math.log1p(math.exp(8.5)), -math.log1p(math.exp(-2.75)), -math.log1p(math.exp(2))]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_tokens_are_summed_by_cell_in_whatever_order_they_come():
    sums = sum_by_cell(torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([3, 0, 3, 1, 0]), 5)
    assert sums.tolist() == [18, 8, 0, 5, 0]


@pytest.mark.parametrize("trained", [False, True])
def test_value_and_gradients_of_a_head_by_hand(trained):
    head = nn.Linear(1, 2, bias=False).requires_grad_(trained)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    hidden = torch.tensor([[[5.0], [1.0], [0.0]]], requires_grad=True)
    # Probabilities (¼, ¾) at the second place, (½, ½) at the third.
    with answer_logprobs_only(head, torch.tensor([1, 2, 1]), torch.tensor([0, 1, 1])):
        values = head(hidden)
    assert values.shape == (1, 3, 1)
    assert values.flatten().tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 2), math.log(3 / 4)])
    (values.flatten() * torch.tensor([1.0, 10, 100])).sum().backward()
    # W[token] − Σ π W is −¾ ln 3 for token 0 at the second place, ¼ ln 3 for token 1, ½ ln 3 at the third.
    by_hand = [0, (-3 / 4 + 100 / 4) * math.log(3), 10 / 2 * math.log(3)]
    assert hidden.grad.flatten().tolist() == pytest.approx(by_hand, rel=1e-5)
    if trained:
        # Hidden states are 1 and 0: what stays is one-hot minus probability at the second place.
        assert head.weight.grad.flatten().tolist() == pytest.approx([3 / 4 - 100 / 4, -3 / 4 + 100 / 4], rel=1e-5)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_suppressed_token_has_no_share_of_the_softmax_and_no_gradient(bias, trained):
    head, smaller = make_head(bias, trained), make_head(bias, trained)
    with torch.no_grad():
        head.weight[3], smaller.weight = 100.0, nn.Parameter(torch.cat([head.weight[:3], head.weight[4:]]))
        if bias:
            smaller.bias = nn.Parameter(torch.cat([head.bias[:3], head.bias[4:]]))
    smaller.requires_grad_(trained)
    targets = torch.tensor([0, 1, 2, 4, 5])
    one, other = make_hidden(), make_hidden()
    with answer_logprobs_only(head, PREDICTS, targets, (3,)):
        found = head(one)
    with answer_logprobs_only(smaller, PREDICTS, targets - (targets > 3).long()):
        expected = smaller(other)
    torch.testing.assert_close(found, expected)
    by_hand = pick_logprobs(head(one).flatten(0, 1)[PREDICTS], targets, (3,))
    torch.testing.assert_close(found.flatten(), by_hand)
    ours, theirs = (torch.autograd.grad(of.sum(), hidden)[0] for of, hidden in ((found, one), (expected, other)))
    torch.testing.assert_close(ours, theirs)
    assert found.isfinite().all()


# -- against all logits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 2 * 7 + 1, 5 * 7, 2**23], ids=lambda n: f"{n} logits")
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_all_logits_whatever_the_chunk(monkeypatch, bias, trained, chunk):
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    head, hidden = make_head(bias, trained, torch.float32), make_hidden(torch.float32)
    found, expected = score(head, hidden), score_densely(head, hidden)
    assert found.shape == (1, 5, 1)
    torch.testing.assert_close(found.flatten(), expected)
    gradients = differentiate(head, hidden, found)
    assert len(gradients) == 1 + trained * (1 + bias)
    for ours, theirs in zip(gradients, differentiate(head, hidden, expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_so_many_logits_exist_at_a_time(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", 2 * 7 + 1)
    head, sizes = make_head(True, True), []
    forward = head.forward
    head.forward = lambda states: sizes.append(len(states)) or forward(states)
    with torch.no_grad():
        score(head, make_hidden())
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("trained", [False, True])
def test_only_hidden_states_are_kept_for_the_backward_pass(trained):
    head, hidden = make_head(False, trained, torch.float32), make_hidden(torch.float32)
    kept = []

    def keep(tensor):
        # torch 2.11 keeps an empty tensor too.
        if tensor.is_floating_point() and tensor.numel() and tensor.data_ptr() != head.weight.data_ptr():
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = score(head, hidden)
    # None of 5 tokens × 7 words.
    assert kept == [5 * 5]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.no_grad():
        assert not score(head, hidden).requires_grad
    assert kept == []
    assert values.requires_grad


@pytest.mark.parametrize("trained", [False, True])
def test_a_head_of_16_bits_gives_float32_and_gradients_of_its_own_precision(trained):
    head, hidden = make_head(True, trained, torch.bfloat16), make_hidden(torch.bfloat16)
    found = score(head, hidden)
    assert found.dtype == torch.float32
    logits = head(hidden).double().flatten(0, 1)[PREDICTS]
    expected = logits.log_softmax(-1).gather(1, TARGETS[:, None])[:, 0]
    # Far nearer than 16 bits can tell.
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(differentiate(head, hidden, found), differentiate(head, hidden, expected), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


# -- the head itself --------------------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A head with a forward of its own, as adapters and quantised layers have."""

    def forward(self, hidden):
        return 3 * super().forward(hidden)


@pytest.mark.parametrize("trained", [False, True])
def test_a_head_of_another_class_is_asked_for_its_own_logits(trained):
    torch.manual_seed(0)
    head, hidden = Scaled(5, 7).double().requires_grad_(trained), make_hidden()
    expected = score_densely(head, hidden)
    found = score(head, hidden)
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(differentiate(head, hidden, found), differentiate(head, hidden, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_hooks_of_the_head_run():
    head, hidden = make_head(True, False), make_hidden()
    head.register_forward_pre_hook(lambda _, arguments: (2 * arguments[0],))
    torch.testing.assert_close(score(head, hidden).flatten().double(), score_densely(head, hidden), rtol=1e-5, atol=0)


@pytest.mark.parametrize("within", [answer_logprobs_only, answer_positions_only], ids=lambda f: f.__name__)
def test_the_head_is_itself_again_afterwards_whatever_happened(within):
    head, hidden = make_head(True, True), make_hidden()
    before, arguments = head(hidden), (PREDICTS, TARGETS)[: 1 + (within is answer_logprobs_only)]
    with within(head, *arguments):
        assert head(hidden).shape[:2] == (1, 5)
    assert torch.equal(head(hidden), before)
    assert "forward" not in vars(head)
    with pytest.raises(RuntimeError, match="stopped"), within(head, *arguments):
        raise RuntimeError("stopped")
    assert torch.equal(head(hidden), before)

    def own(hidden):
        return nn.Linear.forward(head, hidden) + 1

    head.forward = own  # as accelerate hangs its hooks on a module
    with pytest.raises(RuntimeError, match="stopped"), within(head, *arguments):
        raise RuntimeError("stopped")
    assert head.forward is own
    assert torch.equal(head(hidden), before + 1)


def test_the_head_sees_the_predicting_positions_alone_in_their_order():
    head, hidden, seen = make_head(True, True), make_hidden(), []
    head.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    with answer_positions_only(head, PREDICTS):
        logits = head(hidden)
    expected = torch.stack([hidden[0, 1], hidden[0, 2], hidden[1, 2], hidden[1, 2], hidden[2, 3]])
    assert [tensor.tolist() for tensor in seen] == [[expected.tolist()]]
    assert logits.shape == (1, 5, 7)
    torch.testing.assert_close(logits[0], expected @ head.weight.T + head.bias)
