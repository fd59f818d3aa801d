"""Attention over trees: answers share their prompt's keys and values, and never see each other.

transformers asks an *attention implementation* for two functions: one that makes masks, once for each kind of layer
(full, sliding window, images in both directions), and one that attends. Both are registered here under a name of ours.
The mask function is handed the model's own rule, "may query position q see key position k?", and applies it along every
path of a tree, from the prompt's first token to an answer's last: that is what makes windows count positions instead
of distances in the row. Outside of `attend_along` both functions are those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface

from mmdpo.models.devices import send
from mmdpo.models.seams import AS_EVER, CAUSAL, attend, attention_of, make_mask, make_valueless
from mmdpo.scoring.merged_attention import attend_merged, is_mergeable, list_parts
from mmdpo.scoring.plan import Tree

SDPA, FLEX = "tree_sdpa", "tree_flex"
"""Names of attention implementations. Names that contain `flash` would make transformers look for a kernel."""

FLEX_BLOCK = 128
"""Rows for FlexAttention are padded to whole blocks."""

KEPT_PREFIX = 128
"""Tokens of a prefix up to which the keys and values that a branch reads are joined, and kept for its backward pass.

Of a longer one a copy for each branch would take much memory. On a CPU causal attention then goes in merged parts,
which join nothing; otherwise they are joined, and attended to, again in the backward pass.
"""

Rule: TypeAlias = Callable[[Any, Any, Any, Any], Any]
"""(row, head, query place, key place) → whether the query sees the key; elementwise over index tensors."""

_trees: ContextVar[tuple[Tree, ...] | None] = ContextVar("trees", default=None)


@contextmanager
def attend_along(trees: tuple[Tree, ...]) -> Iterator[None]:
    """Within it, text decoders prepared by `install` attend along these trees."""
    token = _trees.set(trees)
    try:
        yield
    finally:
        _trees.reset(token)


def install(decoder: nn.Module) -> None:
    """Lets a text decoder attend along trees, with FlexAttention if it was loaded with it and SDPA otherwise."""
    current = attention_of(decoder)
    if current not in (SDPA, FLEX):
        decoder.set_attn_implementation(FLEX if current == "flex_attention" else SDPA)  # type: ignore[operator]


def uses_flex(decoder: nn.Module) -> bool:
    """Says whether a prepared text decoder uses FlexAttention."""
    return attention_of(decoder) == FLEX


# -- SDPA: one call of the stock kernel for each piece ----------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Consecutive queries of a row that see the same keys."""

    length: int
    prefixes: tuple[tuple[int, int], ...]
    """What they see besides themselves: earlier pieces of the row, by number, and how many of their first tokens."""
    mask: Bool[Tensor, "1 1 Q K"] | None
    """None: causal, over as many keys as queries."""
    is_causal: bool = False
    """Whether they see all of it, and of themselves what comes before."""


class TreeMask(Tensor):
    """The pieces of every row, from left to right; what is left of a row is padding.

    It is a tensor of four dimensions, which transformers takes for a finished mask and hands on to the layers as it is.
    There are no values in it: whoever computes with it gets an error.
    """

    rows: tuple[tuple[Piece, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Piece]], shape: tuple[int, int, int, int], device: Any) -> TreeMask:
        """Returns the mask of rows that the attention of this module attends along."""
        mask: TreeMask = make_valueless(cls, shape, torch.bool, device)
        mask.rows = tuple(map(tuple, rows))
        return mask

    __torch_function__ = AS_EVER

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Raises TypeError where a tensor would be computed."""
        raise TypeError(
            f"{getattr(func, '__name__', func)}: the mask of shared rows has no values, and the model computes with "
            "its attention mask: use attention: separate"
        )

    def __getitem__(self, index: Any) -> Any:
        """Returns the mask itself where all of it is taken, as Gemma 4 does for layers that borrow keys and values."""
        places = index if isinstance(index, tuple) else (index,)
        is_whole = all(
            isinstance(place, slice) and place.indices(size) == (0, size, 1)
            for place, size in zip(places, self.shape, strict=False)
        )
        return self if is_whole else super().__getitem__(index)

    def to(self, *args: Any, **kwargs: Any) -> TreeMask:
        """Returns the mask on another device, for the layers of a model that is spread over several."""
        device = torch.empty(0, device=self.device).to(*args, **kwargs).device
        if device == self.device:
            return self
        moved = [
            [replace(piece, mask=None if piece.mask is None else piece.mask.to(device)) for piece in row]
            for row in self.rows
        ]
        rows, width, queries, keys = self.shape
        return TreeMask.of(moved, (rows, width, queries, keys), device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"TreeMask({tuple(self.shape)})"


def make_tree_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Rule = CAUSAL,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """Returns the mask of one kind of layer: of the trees at hand, else what SDPA takes."""
    trees = _trees.get()
    if trees is None:
        lengths = dict(batch_size=batch_size, q_length=q_length, kv_length=kv_length)
        options = dict(mask_function=mask_function, attention_mask=attention_mask, device=device)
        plain: Tensor | None = make_mask("sdpa", **lengths, **options, **kwargs)
        return plain
    rows: list[list[Piece]] = [[] for _ in range(batch_size)]
    for tree in trees:
        rows[tree.row] += _cut(tree, len(rows[tree.row]), mask_function, device)
    return TreeMask.of(rows, (batch_size, 1, q_length, kv_length), device)


def _cut(tree: Tree, number: int, rule: Rule, device: Any) -> list[Piece]:
    """Returns the pieces of a tree, the first of them the row's `number`-th: as long as a path goes straight on.

    The first prompt with its first answer is one, each further answer is, and so is what another prompt adds with its
    first answer.
    """
    runs: list[list[int]] = []  # the branches of each piece
    for place, branch in enumerate(tree.branches):
        before = tree.branches[place - 1]
        goes_on = place > 0 and branch.after == place - 1 and branch.depth == before.depth + before.length
        if goes_on:
            runs[-1].append(place)
        else:
            runs.append([place])
    run_of = {place: run for run, members in enumerate(runs) for place in members}
    pieces = []
    for members in runs:
        first, last = tree.branches[members[0]], tree.branches[members[-1]]
        # A path enters a piece at its beginning, and leaves it where the last of its branches there is left.
        seen: dict[int, int] = {}
        for place, depth in tree.path(first):
            run = run_of[place]
            seen[run] = depth - tree.branches[runs[run][0]].depth
        stop = last.depth + last.length
        # Plain causal attention has kernels of its own, and they need as many keys as queries.
        is_causal = rule is CAUSAL
        mask = None if is_causal and not seen else _apply(rule, tree, first.depth, stop, device)
        prefixes = tuple((number + run, count) for run, count in seen.items())
        pieces.append(Piece(stop - first.depth, prefixes, mask, is_causal))
    return pieces


def _apply(rule: Rule, tree: Tree, start: int, stop: int, device: Any) -> Bool[Tensor, "1 1 Q K"]:
    """Returns what tokens `start` to `stop` of a path see of the path.

    The rule is asked about the places that the path would have if it were the tree's first: whatever it looks up there
    (which tokens are an image's, which are a prompt's) is the same for every path.
    """
    places = torch.arange(tree.start, tree.start + stop, device=device)
    # Filled on the device, since a copy of one number would be waited for; with dimensions, since an index without
    # them would be read back.
    row, head = (torch.full((1, 1, 1, 1), number, device=device) for number in (tree.row, 0))
    return rule(row, head, places[None, None, start:, None], places[None, None, None, :]).expand(1, 1, -1, stop)  # type: ignore[no-any-return]


def attend_to_tree(
    module: nn.Module,
    query: Float[Tensor, "R H S D"],
    key: Float[Tensor, "R G K D"],
    value: Float[Tensor, "R G K E"],
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "R S H E"], None]:
    """Attends piece by piece: the prompt with its first answer, then each other branch over its prefix and itself.

    Where parts can be merged, all branches that see a prefix ask it at once (`merged_attention.py`).

    Values may have another width E than queries and keys, as in DeepSeek-V3.
    """
    if not isinstance(attention_mask, TreeMask):
        result: tuple[Tensor, None] = attend("sdpa", module, query, key, value, attention_mask, **kwargs)
        return result
    if len(attention_mask.rows) == 1:  # as it is: the gradient of a slice is copied into zeros of full size
        return _attend_row(module, query, key, value, attention_mask.rows[0], kwargs), None
    parts = zip(*(torch.split(of, 1) for of in (query, key, value)), attention_mask.rows, strict=True)
    return torch.cat([_attend_row(module, q, k, v, pieces, kwargs) for q, k, v, pieces in parts]), None


def _attend_row(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], kwargs: dict[str, Any]
) -> Float[Tensor, "1 S H E"]:
    lengths = [piece.length for piece in pieces]
    read = [sum(count for _, count in piece.prefixes) for piece in pieces]
    # After a short prefix the parts are small, and more of them cost more than they save.
    is_long = max(read) > KEPT_PREFIX
    if is_long and all(piece.is_causal for piece in pieces) and is_mergeable(query, key, value, kwargs):
        parts = list_parts(lengths, [piece.prefixes for piece in pieces])
        return attend_merged(query, key, value, parts, kwargs.get("scaling"))
    padding = query.shape[2] - sum(lengths)
    # One split, whose backward is one concatenation; a slice for each piece would add up as many tensors of full size.
    split = [torch.split(tensor, [*lengths, padding], dim=2)[: len(pieces)] for tensor in (query, key, value)]
    outputs: list[Tensor] = []
    # A prefix is sliced once for all branches, so that its gradients are added up before they go into full size.
    prefixes = {
        prefix: [tensors[prefix[0]][:, :, : prefix[1]] for tensors in split[1:]]
        for prefix in dict.fromkeys(prefix for piece in pieces for prefix in piece.prefixes)
    }
    for piece, count, queries, keys, values in zip(pieces, read, *split, strict=True):
        options = {**kwargs, "is_causal": piece.mask is None}
        prefix_keys, prefix_values = ([prefixes[prefix][n] for prefix in piece.prefixes] for n in range(2))
        branch = (module, prefix_keys, prefix_values, queries, keys, values, piece.mask, options)
        if count > KEPT_PREFIX:
            is_random = bool(kwargs.get("dropout"))
            outputs.append(checkpoint(_attend_piece, *branch, use_reentrant=False, preserve_rng_state=is_random))
        else:
            outputs.append(_attend_piece(*branch))
    if padding:
        outputs.append(outputs[-1].new_zeros(1, padding, *outputs[-1].shape[2:]))
    return torch.cat(outputs, dim=1)


def _attend_piece(
    module: nn.Module,
    prefix_keys: list[Float[Tensor, "1 G _ D"]],
    prefix_values: list[Float[Tensor, "1 G _ E"]],
    queries: Float[Tensor, "1 H Q D"],
    keys: Float[Tensor, "1 G Q D"],
    values: Float[Tensor, "1 G Q E"],
    mask: Bool[Tensor, "1 1 Q K"] | None,
    options: dict[str, Any],
) -> Float[Tensor, "1 Q H E"]:
    if prefix_keys:
        keys, values = torch.cat([*prefix_keys, keys], dim=2), torch.cat([*prefix_values, values], dim=2)
    output: Tensor = attend("sdpa", module, queries, keys, values, mask, **options)[0]
    return output


# -- FlexAttention: one call over the row, blocks that nobody sees left out -------------------------------------------


def make_block_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Rule = CAUSAL,
    device: Any = "cpu",
    **kwargs: Any,
) -> BlockMask:
    """Returns the mask of one kind of layer for FlexAttention."""
    trees = _trees.get()
    if trees is None:
        lengths = dict(batch_size=batch_size, q_length=q_length, kv_length=kv_length)
        plain: BlockMask = make_mask("flex_attention", **lengths, mask_function=mask_function, device=device, **kwargs)
        return plain
    rule = follow_paths(trees, (batch_size, q_length), mask_function, device)
    compile_it = torch.device(device).type == "cuda"
    mask: BlockMask = create_block_mask(
        rule, B=batch_size, H=None, Q_LEN=q_length, KV_LEN=kv_length, device=device, _compile=compile_it
    )
    return mask


def follow_paths(trees: Sequence[Tree], shape: tuple[int, int], rule: Rule, device: Any) -> Rule:
    """Returns the rule of rows [R, S]: a token sees its path, as `rule` has it for a path that stands alone."""
    branches = [
        (tree, branch, start) for tree in trees for branch, start in zip(tree.branches, tree.starts, strict=True)
    ]
    # Padding is a branch of its own: every token sees at least itself.
    branch_of: Int[Tensor, "R S"] = torch.full(shape, len(branches))
    depth_of = torch.zeros(shape, dtype=torch.long)
    place_of = torch.arange(shape[1]).repeat(shape[0], 1)
    # Up to which depth of its own sequence a token of one branch sees those of another.
    seen: Int[Tensor, "n n"] = torch.zeros(len(branches) + 1, len(branches) + 1, dtype=torch.long)
    seen.fill_diagonal_(shape[1] + 1)
    first = 0  # number of the tree's first branch among all
    for number, (tree, branch, start) in enumerate(branches):
        first = first if branch.depth else number
        depths = torch.arange(branch.depth, branch.depth + branch.length)
        branch_of[tree.row, start : start + branch.length] = number
        depth_of[tree.row, start : start + branch.length] = depths
        place_of[tree.row, start : start + branch.length] = tree.start + depths
        for before, depth in tree.path(branch):
            seen[number, first + before] = depth
    branch_of, depth_of, place_of, seen = (send(tensor, device) for tensor in (branch_of, depth_of, place_of, seen))

    def sees(row: Any, head: Any, q: Any, k: Any) -> Any:
        is_on_path = depth_of[row, k] < seen[branch_of[row, q], branch_of[row, k]]
        return is_on_path & rule(row, head, place_of[row, q], place_of[row, k])

    return sees


AttentionMaskInterface.register(SDPA, make_tree_mask)
AttentionInterface.register(SDPA, attend_to_tree)
AttentionMaskInterface.register(FLEX, make_block_mask)
AttentionInterface.register(FLEX, partial(attend, "flex_attention"))
