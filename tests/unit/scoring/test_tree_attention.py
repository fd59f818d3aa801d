"""Attention over trees against a mask that is written down path by path, and transformers left as it was."""

import inspect
import math

import pytest
import torch
import transformers
from torch import nn
from transformers.masking_utils import (
    causal_mask_function,
    create_causal_mask,
    flex_attention_mask,
    or_masks,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from mmdpo.scoring import tree_attention
from mmdpo.scoring.plan import PROMPT, Branch, Tree
from mmdpo.scoring.tree_attention import (
    FLEX,
    SDPA,
    TreeMask,
    attend_along,
    attend_to_tree,
    follow_paths,
    install,
    make_block_mask,
    make_tree_mask,
    uses_flex,
)

WIDTH, WINDOW = 24, 3


def tree(row, start, prompt, *answers):
    """A prompt and its answers, by their lengths."""
    branches = [Branch(0, PROMPT, prompt), *(Branch(0, 0, length, 0, prompt) for length in answers)]
    return Tree(tuple(branches), row, start)


def fork(row, start, *branches):
    """Branches by (length, the branch that each continues, the depth at which it does)."""
    return Tree(tuple(Branch(0, PROMPT, *branch) for branch in branches), row, start)


# Later answers that are shorter and longer than the first; padding of one row, of the other, and of none.
# The fourth tree forks: a question of three tokens that goes on from the second token of the first one's rest, with two
# answers, and one of two tokens that goes on from the first of these, with one.
TREES = (
    tree(0, 0, 5, 3, 4, 2),
    tree(0, 14, 4, 2),
    tree(1, 0, 6, 1, 5),
    fork(2, 0, (4, 0, 0), (2, 0, 4), (3, 0, 3), (1, 2, 6), (2, 2, 6), (2, 2, 4), (1, 5, 6)),
    tree(2, 15, 7, 1, 1),
)

# Images, as numbers over their tokens; two in the first prompt, one that is a whole prompt.
IMAGES = torch.zeros(3, WIDTH, dtype=torch.long)
IMAGES[0, 0:2], IMAGES[0, 3:5], IMAGES[0, 15:17], IMAGES[1, 0:6], IMAGES[2, 0:2], IMAGES[2, 16:20] = 1, 2, 3, 1, 2, 1


def is_in_one_image(row, head, q, k):
    return (IMAGES[row, q] == IMAGES[row, k]) & (IMAGES[row, q] > 0)


# Each rule as transformers has it, over places of a row; and as it stands for places i, j of one sequence alone.
RULES = {
    "causal": (causal_mask_function, lambda i, j, _: j <= i),
    "window": (sliding_window_causal_mask_function(WINDOW), lambda i, j, _: i - WINDOW < j <= i),
    "images": (or_masks(causal_mask_function, is_in_one_image), lambda i, j, is_image: j <= i or is_image),
    "images and window": (
        or_masks(sliding_window_causal_mask_function(WINDOW), is_in_one_image),
        lambda i, j, is_image: i - WINDOW < j <= i or is_image,
    ),
}


@pytest.fixture(params=RULES)
def rules(request):
    return RULES[request.param]


def write_mask(alone):
    """What every token of the rows sees: sequence by sequence, prompt and answer, as if each was on its own."""
    mask = torch.zeros(3, WIDTH, WIDTH, dtype=torch.bool)
    for tree in TREES:
        sequences = []
        for branch, start in zip(tree.branches, tree.starts, strict=True):
            before = sequences[branch.after][: branch.depth] if sequences else []
            sequences.append([*before, *range(start, start + branch.length)])
        for sequence in sequences:
            for i, q in enumerate(sequence):
                for j, k in enumerate(sequence):
                    is_image = IMAGES[tree.row, q] == IMAGES[tree.row, k] > 0
                    mask[tree.row, q, k] = bool(alone(i, j, is_image))
    return mask


def is_token():
    found = torch.zeros(3, WIDTH, dtype=torch.bool)
    for tree in TREES:
        found[tree.row, tree.start : tree.start + tree.length] = True
    return found


def lay_out(rule):
    """A rule over all places, as [R, S, S]."""
    places = torch.arange(WIDTH)
    return rule(torch.arange(3)[:, None, None], torch.tensor(0), places[:, None], places[None, :])


def test_the_mask_by_hand():
    """Prompt `ab`, answers `c` and `de`, an example `f` behind them, and padding."""
    trees = (tree(0, 0, 2, 1, 2), tree(0, 5, 1, 1))
    places = torch.arange(8)
    rule = follow_paths(trees, (1, 8), causal_mask_function, "cpu")
    seen = rule(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])
    assert ["".join("#" if flag else "." for flag in row) for row in seen] == [
        "#.......",
        "##......",
        "###.....",
        "##.#....",
        "##.##...",
        ".....#..",
        ".....##.",
        ".......#",
    ]


def test_a_token_sees_what_it_would_see_alone(rules):
    rule, alone = rules
    expected, real = write_mask(alone), is_token()
    seen = lay_out(follow_paths(TREES, (3, WIDTH), rule, "cpu"))
    assert torch.equal(seen & real[:, :, None], expected)
    padding = ~real
    assert padding.any(1).tolist() == [True, True, False]
    # A softmax over nothing is not a number.
    assert seen.diagonal(dim1=1, dim2=2)[padding].all()


# -- SDPA -------------------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """What attention functions of transformers look at."""

    is_causal = True

    def __init__(self, groups):
        super().__init__()
        self.num_key_value_groups = groups


def make_mask(rule, **options):
    lengths = dict(batch_size=3, q_length=WIDTH, kv_length=WIDTH)
    return make_tree_mask(**lengths, mask_function=rule, attention_mask=None, **options)


def attend_densely(query, key, value, mask, scaling):
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask[:, None], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(
    "kept_prefix", [None, 0, 4, WIDTH], ids=["merged", "no prefix kept", "short ones kept", "all kept"]
)
@pytest.mark.parametrize("heads", [4, 2, 1], ids=lambda n: f"{n} of 4")
def test_pieces_equal_one_dense_attention(rules, heads, kept_prefix, monkeypatch):
    monkeypatch.setattr(tree_attention, "KEPT_PREFIX", 0)
    if kept_prefix is not None:
        attend_as_on_a_gpu(monkeypatch, kept_prefix)
    rule, alone = rules
    made = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, n, WIDTH, 8, dtype=torch.float64, generator=made) for n in (4, heads, heads)]
    query, key, value = (tensor.requires_grad_() for tensor in tensors)
    with attend_along(TREES):
        mask = make_mask(rule)
    assert isinstance(mask, TreeMask)
    assert (mask.shape, mask.ndim) == ((3, 1, WIDTH, WIDTH), 4)
    found, _ = attend_to_tree(Layer(4 // heads), query, key, value, mask, scaling=0.7, dropout=0.0)
    real = is_token()
    visible = write_mask(alone) | (torch.eye(WIDTH, dtype=torch.bool) & ~real[:, :, None])
    expected = attend_densely(query, key, value, visible, 0.7)
    assert found.shape == expected.shape == (3, WIDTH, 4, 8)
    torch.testing.assert_close(found[real], expected[real])
    assert not found[~real].any()

    assert mask.to("cpu") is mask
    with pytest.raises(TypeError, match="attention: separate"):
        mask.logical_not()
    with pytest.raises(TypeError, match="attention: separate"):
        torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    elsewhere = mask.to("meta")
    assert (elsewhere.device.type, elsewhere.shape) == ("meta", mask.shape)
    assert all(piece.mask is None or piece.mask.is_meta for row in elsewhere.rows for piece in row)

    weights = torch.randn(expected[real].shape, dtype=torch.float64, generator=made)
    ours, theirs = (torch.autograd.grad((weights * out[real]).sum(), (query, key, value)) for out in (found, expected))
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other)
        assert not gradient.transpose(1, 2)[~real].any()


def attend_as_on_a_gpu(monkeypatch, kept_prefix):
    monkeypatch.setattr(tree_attention, "KEPT_PREFIX", kept_prefix)
    monkeypatch.setattr(tree_attention, "is_mergeable", lambda *_: False)


@pytest.mark.parametrize(("kept_prefix", "times"), [(0, 7), (6, 1), (WIDTH, 0)])
def test_branches_after_a_long_prefix_alone_are_computed_again(kept_prefix, times, monkeypatch):
    calls = []
    compute = tree_attention.checkpoint
    attend_as_on_a_gpu(monkeypatch, kept_prefix)
    monkeypatch.setattr(tree_attention, "checkpoint", lambda *args, **how: calls.append(1) or compute(*args, **how))
    query = torch.randn(3, 2, WIDTH, 8, requires_grad=True)
    with attend_along(TREES):
        attend_to_tree(Layer(1), query, query, query, make_mask(causal_mask_function), scaling=1.0)
    assert len(calls) == times


@pytest.mark.parametrize(("rule", "kept_prefix", "rows"), [("causal", 4, 3), ("causal", WIDTH, 0), ("window", 0, 0)])
def test_causal_rows_with_a_long_prefix_alone_are_merged(rule, kept_prefix, rows, monkeypatch):
    calls = []
    compute = tree_attention.attend_merged
    monkeypatch.setattr(tree_attention, "KEPT_PREFIX", kept_prefix)
    monkeypatch.setattr(tree_attention, "attend_merged", lambda *args: calls.append(1) or compute(*args))
    query = torch.randn(3, 2, WIDTH, 8)
    with attend_along(TREES):
        attend_to_tree(Layer(1), query, query, query, make_mask(RULES[rule][0]), scaling=1.0)
    assert len(calls) == rows


def test_a_finished_mask_is_passed_on_and_plain_causal_attention_needs_none():
    with attend_along(TREES):
        mask = make_mask(causal_mask_function)
        config = transformers.LlamaConfig(num_hidden_layers=1, attn_implementation=SDPA)
        hidden = torch.zeros(3, WIDTH, 8)
        again = create_causal_mask(config, hidden, mask, None)
    assert again is mask
    assert [[piece.mask is None for piece in row if not piece.prefixes] for row in mask.rows] == [
        [True, True],
        [True],
        [True, True],
    ]
    windowed = sliding_window_causal_mask_function(WINDOW)
    with attend_along(TREES):
        assert all(piece.mask is not None for row in make_mask(windowed).rows for piece in row)


# -- without trees ----------------------------------------------------------------------------------------------------


def test_trees_are_gone_afterwards_whatever_happened():
    with attend_along(TREES), attend_along(TREES[:2]):
        pass
    with pytest.raises(RuntimeError, match="stopped"), attend_along(TREES):
        raise RuntimeError("stopped")
    lengths = dict(batch_size=1, q_length=5, kv_length=5)
    padded = torch.tensor([[False, True, True, True, True]])
    made = make_tree_mask(**lengths, attention_mask=padded, device="cpu")
    assert torch.equal(made, sdpa_mask(**lengths, attention_mask=padded, device="cpu"))
    with torch.compiler.set_stance("force_eager"):  # the same mask, without twenty seconds of a compiler
        plain, theirs = make_block_mask(**lengths), flex_attention_mask(**lengths, mask_function=causal_mask_function)
    assert torch.equal(plain.to_dense(), theirs.to_dense())
    start, places = torch.tensor(0), torch.arange(5)
    assert torch.equal(*(mask.mask_mod(start, start, places[:, None], places) for mask in (plain, theirs)))


SIZES = dict(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)


@pytest.mark.parametrize("options", [{}, dict(sliding_window=3)], ids=["causal", "window"])
def test_a_prepared_model_is_as_it_was(options):
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**{**SIZES, "sliding_window": None, **options}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    ids = torch.tensor([[0, 0, 0, 5, 6, 7, 8, 9], [3, 9, 4, 8, 6, 5, 7, 3]])
    inputs = dict(input_ids=ids, attention_mask=(ids > 0).long())

    def look():
        with torch.no_grad():
            logits = model.eval()(**inputs).logits
        generated = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        loss = model.train()(**inputs, labels=ids).loss
        return logits, generated, *torch.autograd.grad(loss, list(model.parameters()))

    before = look()
    install(model.model)
    assert model.config._attn_implementation == SDPA
    install(model.model)
    assert model.config._attn_implementation == SDPA
    for ours, theirs in zip(look(), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("loaded", "prepared"), [("sdpa", SDPA), ("flex_attention", FLEX)])
def test_a_decoder_keeps_the_kernel_that_it_was_loaded_with(loaded, prepared):
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, attn_implementation=loaded))
    for _ in range(2):
        install(model.model)
        assert model.model.config._attn_implementation == prepared
        assert uses_flex(model.model) == (prepared == FLEX)


# -- FlexAttention ----------------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch):
    """The checks of shapes wrap functions, and torch counts the arguments of this one."""
    monkeypatch.setattr(tree_attention, "follow_paths", lambda *args: inspect.unwrap(follow_paths(*args)))


@pytest.mark.usefixtures("unchecked")
def test_the_mask_of_blocks_is_the_same_mask(rules):
    rule, alone = rules
    with attend_along(TREES):
        mask = make_block_mask(batch_size=3, q_length=WIDTH, kv_length=WIDTH, mask_function=rule)
    real = is_token()
    assert mask.shape == (3, 1, WIDTH, WIDTH)
    assert torch.equal(lay_out(mask.mask_mod) & real[:, :, None], write_mask(alone))


@pytest.mark.usefixtures("unchecked")
def test_blocks_that_nobody_sees_are_left_out():
    """Two pairs of one block each, an answer of a block, and one block of padding."""
    trees = (tree(0, 0, 100, 28, 128), tree(0, 256, 120, 8))
    with attend_along(trees):
        mask = make_block_mask(batch_size=1, q_length=512, kv_length=512)
    blocks = mask.to_dense()[0, 0]
    assert blocks.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert mask.sparsity() == pytest.approx(100 * (1 - 5 / 16))
    assert math.prod(mask.BLOCK_SIZE) == 128 * 128
