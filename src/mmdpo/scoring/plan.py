"""From cells to forward rows: pure index arithmetic, no model.

A *tree* is a context with the answers that are scored after it, side by side: `[prompt with images | answer | …]`.
Every answer reads the prompt and itself, never its neighbour. Separately, each cell is a tree of its own in a row of
its own, row c · B + b for cell c of example b, padded on the right. Shared, the cells of an example under the same
images are one tree, and trees are packed into as few rows as a budget of tokens allows.

One row r of the real image's tree, of P = 4 prompt tokens (image tokens among them) and two answers of L = 3 and 2:

    place s      0   1   2   3 | 4   5   6  | 7   8  | 9
    input_ids    q   m   m   q | w₁  w₂  w₃ | l₁  l₂ | padding
    positions    0   1   2   3 | 4   5   6  | 4   5  |
    sees         the prompt    | and w      | and l  |
    predicts                 w₁  w₂  w₃
                             l₁               l₂

Place 3, the end of the prompt, predicts the first token of both answers, so that it is read twice: `predicts` is
[3, 4, 5, 3, 7] and `targets` [w₁, w₂, w₃, l₁, l₂].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mmdpo.data.collate import Batch
from mmdpo.records import Cell, image_versions, response_names


@dataclass(frozen=True)
class Branch:
    """An answer after its context. Lengths and places are in tokens."""

    cell: int
    """c · B + b for cell c of example b."""
    answer: int
    """Its row among the batch's answers."""
    length: int


@dataclass(frozen=True)
class Tree:
    """A context and its answers, and where in the rows they lie."""

    context: int
    prompt: int
    """Length of the context."""
    branches: tuple[Branch, ...]
    row: int = 0
    start: int = 0

    @property
    def length(self) -> int:
        """Tokens of the context and all answers."""
        return self.prompt + sum(branch.length for branch in self.branches)

    def placed_branches(self) -> Iterator[tuple[Branch, int]]:
        """Yields every branch with the place of its first token in the row."""
        ends = itertools.accumulate((branch.length for branch in self.branches), initial=self.start + self.prompt)
        yield from zip(self.branches, ends, strict=False)


@dataclass(frozen=True)
class Rows:
    """Forward rows. Each answer token is predicted by the token before it in its own sequence."""

    input_ids: Int[Tensor, "R S"]
    attention_mask: Int[Tensor, "R S"]
    token_types: dict[str, Int[Tensor, "R S"]]
    positions: Int[Tensor, "... R S"]
    """Positions for rotary embeddings, beginning anew after the prompt with every answer; [3, R, S] under M-RoPE."""
    trees: tuple[Tree, ...]
    """In the order of rows, and from left to right in each: the order of the images."""
    predicts: Int[Tensor, "N"]
    """Place r · S + s of the output that predicts each answer token; trees repeat the end of their prompt."""
    targets: Int[Tensor, "N"]
    """The answer tokens."""
    cell_of: Int[Tensor, "N"]
    """c · B + b of the cell and example that each answer token belongs to."""

    @property
    def contexts(self) -> Int[Tensor, "T"]:
        """The contexts of the batch in the order of their trees."""
        return torch.tensor([tree.context for tree in self.trees])


def plan_rows(
    batch: Batch,
    cells: tuple[Cell, ...],
    *,
    collated: tuple[Cell, ...],
    answer_token_types: dict[str, int],
    share: bool = False,
    max_tokens: int | None = None,
    multiple_of: int = 1,
    prompt_positions: Int[Tensor, "... K P"] | None = None,
) -> Rows:
    """Returns the rows of the cells.

    `collated` are the cells that the batch was made for; those of them that are not asked for are not computed.
    With `share`, cells under one context become one tree, and a row takes trees up to `max_tokens`; a longer tree has
    a row of its own. Rows are padded to a multiple of `multiple_of`. `prompt_positions` are the positions of the
    contexts where they are more than a count of tokens.
    """
    trees = grow_trees(batch, cells, collated, share=share)
    trees = pack_trees(trees, max_tokens) if share else [replace(tree, row=row) for row, tree in enumerate(trees)]
    width = max(tree.start + tree.length for tree in trees)
    width += -width % multiple_of
    if prompt_positions is None:
        shape = batch["prompt_ids"].shape
        prompt_positions = torch.arange(shape[1], device=batch["prompt_ids"].device).expand(shape)

    def lay_tokens(prompts: Int[Tensor, "K P"], answers: Int[Tensor, "A·B L"]) -> Int[Tensor, "R S"]:
        return _lay(trees, width, lambda t: prompts[t.context], lambda _, branch: answers[branch.answer])

    def count_on(tree: Tree, branch: Branch) -> Int[Tensor, "... L"]:
        before = prompt_positions[..., tree.context, : tree.prompt]
        steps = torch.arange(1, branch.length + 1, device=before.device)
        return before.amax() + steps.expand(*before.shape[:-1], -1)

    answer_ids = batch["answer_ids"]
    places = [place for tree in trees for place in _find_predicting_places(tree, width)]
    branches = [branch for tree in trees for branch in tree.branches]
    device = answer_ids.device
    return Rows(
        input_ids=lay_tokens(batch["prompt_ids"], answer_ids),
        attention_mask=_mark_tokens(trees, width).to(device),
        token_types={
            name: lay_tokens(types, torch.full_like(answer_ids, answer_token_types.get(name, 0)))
            for name, types in batch["token_types"].items()
        },
        positions=_lay(trees, width, lambda tree: prompt_positions[..., tree.context, :], count_on),
        trees=tuple(trees),
        predicts=torch.tensor(places, device=device),
        targets=torch.cat([answer_ids[branch.answer, : branch.length] for branch in branches]),
        cell_of=torch.tensor([b.cell for b in branches for _ in range(b.length)], device=device),
    )


def grow_trees(batch: Batch, cells: tuple[Cell, ...], collated: tuple[Cell, ...], *, share: bool) -> list[Tree]:
    """Returns the trees of the cells, not placed yet: one for each context that a cell needs, or one for each cell."""
    size = len(batch["index"])
    versions, responses = image_versions(collated), response_names(collated)
    # Both lengths in one transfer: a GPU is waited for once.
    lengths = torch.cat([batch["prompt_mask"].sum(1), batch["answer_mask"].sum(1)]).tolist()
    prompts, answers = lengths[: len(batch["prompt_mask"])], lengths[len(batch["prompt_mask"]) :]
    trees: dict[int, Tree] = {}
    for cell, example in itertools.product(range(len(cells)), range(size)):
        context = versions.index(cells[cell].image) * size + example
        answer = responses.index(cells[cell].response) * size + example
        place = cell * size + example
        key = context if share else place
        tree = trees.get(key, Tree(context, prompts[context], ()))
        trees[key] = replace(tree, branches=(*tree.branches, Branch(place, answer, answers[answer])))
    return list(trees.values())


def pack_trees(trees: Sequence[Tree], max_tokens: int | None) -> list[Tree]:
    """Returns the trees placed in rows: the longest first, each into the first row with room for it.

    Where all of them fit into one row, they stand in their own order. A tree longer than `max_tokens` has a row alone.
    """
    if max_tokens is None or sum(tree.length for tree in trees) <= max_tokens:
        starts = itertools.accumulate((tree.length for tree in trees), initial=0)
        return [replace(tree, start=start) for tree, start in zip(trees, starts, strict=False)]
    filled: list[int] = []
    placed = []
    for tree in sorted(trees, key=lambda tree: -tree.length):
        fitting = (row for row, used in enumerate(filled) if used + tree.length <= max_tokens)
        row = next(fitting, len(filled))
        if row == len(filled):
            filled.append(0)
        placed.append(replace(tree, row=row, start=filled[row]))
        filled[row] += tree.length
    return sorted(placed, key=lambda tree: (tree.row, tree.start))


def _lay(
    trees: Sequence[Tree],
    width: int,
    of_prompt: Callable[[Tree], Int[Tensor, "... P"]],
    of_branch: Callable[[Tree, Branch], Int[Tensor, "... L"]],
) -> Int[Tensor, "... R S"]:
    """Joins what each tree's tokens are given, row by row; padding repeats a row's last value.

    It is masked, and no id of an answer can be mistaken for an image's.
    """
    rows = []
    for _, members in itertools.groupby(trees, key=lambda tree: tree.row):
        parts = []
        for tree in members:
            parts.append(of_prompt(tree)[..., : tree.prompt])
            parts += [of_branch(tree, branch)[..., : branch.length] for branch in tree.branches]
        missing = width - sum(part.shape[-1] for part in parts)
        rows.append(torch.cat([*parts, parts[-1][..., -1:].expand(*parts[-1].shape[:-1], missing)], dim=-1))
    return torch.stack(rows, dim=-2)


def _mark_tokens(trees: Sequence[Tree], width: int) -> Int[Tensor, "R S"]:
    """Returns 1 over tokens and 0 over padding."""
    mask = torch.zeros(trees[-1].row + 1, width, dtype=torch.long)
    for tree in trees:
        mask[tree.row, : tree.start + tree.length] = 1
    return mask


def _find_predicting_places(tree: Tree, width: int) -> Iterator[int]:
    """Yields the place of the output that predicts each token of each answer: the end of the prompt, then its own."""
    row = tree.row * width
    for branch, start in tree.placed_branches():
        yield row + tree.start + tree.prompt - 1
        yield from range(row + start, row + start + branch.length - 1)
