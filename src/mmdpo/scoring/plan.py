"""From cells to forward rows: pure index arithmetic, no model, on the host.

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

Contexts that begin alike, with all of their images in what is alike, are one tree too, whosever they are: two questions
about one picture are `[image + question 1 | w | l | rest of question 2 | w | l]`, and the same question asked twice
adds its answers alone. What is alike, the collator has found (`Batch.begins_as`, `Batch.answers_as`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mmdpo.data.collate import Batch
from mmdpo.models.devices import send
from mmdpo.records import Cell, image_versions, response_names

PROMPT = -1
"""Stands in place of an answer for the tokens of a context."""


@dataclass(frozen=True)
class Branch:
    """Consecutive tokens of a tree: a context, what a later one has beyond it, or an answer. Lengths are in tokens."""

    context: int
    """The context that its tokens are of, or follow."""
    answer: int
    """Its row among the batch's answers, PROMPT for a context's tokens."""
    length: int
    after: int = 0
    """Number of the branch that it continues; the first branch continues none."""
    depth: int = 0
    """Tokens before it in its own sequence: it continues the other branch from there on, not always from its end."""
    cells: tuple[int, ...] = ()
    """c · B + b of the cells that an answer is scored for; several where examples have the same answer."""


@dataclass(frozen=True)
class Tree:
    """A context, what continues it, and where in the rows they lie."""

    branches: tuple[Branch, ...]
    """In the order of the row. The first is the context whose images are the tree's."""
    row: int = 0
    start: int = 0

    @property
    def context(self) -> int:
        """The first context."""
        return self.branches[0].context

    @property
    def length(self) -> int:
        """Tokens of all branches."""
        return sum(branch.length for branch in self.branches)

    @property
    def starts(self) -> tuple[int, ...]:
        """The place of each branch's first token in the row."""
        return tuple(itertools.accumulate((branch.length for branch in self.branches[:-1]), initial=self.start))

    def path(self, branch: Branch) -> list[tuple[int, int]]:
        """Returns the branches before one on its way from the first, and up to which depth it shares each."""
        steps, at = [], branch
        while at.depth > 0:
            steps.append((at.after, at.depth))
            at = self.branches[at.after]
        return steps[::-1]

    def place_before(self, branch: Branch) -> int:
        """Returns the place in the row of the token before a branch in its own sequence."""
        number, depth = self.path(branch)[-1]
        return self.starts[number] + depth - 1 - self.branches[number].depth


@dataclass(frozen=True)
class Rows:
    """Forward rows, planned on the host. Each answer token is predicted by the token before it in its own sequence."""

    input_ids: Int[Tensor, "R S"]
    attention_mask: Int[Tensor, "R S"]
    token_types: dict[str, Int[Tensor, "R S"]]
    positions: Int[Tensor, "... R S"]
    """Positions for rotary embeddings, beginning anew after the prompt with every answer; [3, R, S] under M-RoPE."""
    trees: tuple[Tree, ...]
    """In the order of rows, and from left to right in each: the order of the images."""
    predicts: Int[Tensor, "N"]
    """Place r · S + s of the output that predicts each answer token; trees repeat the ends of their prompts."""
    targets: Int[Tensor, "N"]
    """The answer tokens, once for each cell that they are scored for."""
    cell_of: Int[Tensor, "N"]
    """c · B + b of the cell and example that each answer token belongs to."""

    @property
    def contexts(self) -> list[int]:
        """The contexts of the batch in the order of their trees."""
        return [tree.context for tree in self.trees]

    def to(self, device: Any) -> Rows:
        """Returns the rows on a device; nothing waits for it."""
        tensors: dict[str, Any] = {
            name: send(getattr(self, name), device)
            for name in ("input_ids", "attention_mask", "positions", "predicts", "targets", "cell_of")
        }
        token_types = {name: send(types, device) for name, types in self.token_types.items()}
        return replace(self, **tensors, token_types=token_types)


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
    trees = grow_trees(batch, cells, collated, share=share, max_tokens=max_tokens)
    trees = pack_trees(trees, max_tokens) if share else [replace(tree, row=row) for row, tree in enumerate(trees)]
    width = max(tree.start + tree.length for tree in trees)
    width += -width % multiple_of
    if prompt_positions is None:
        shape = batch["prompt_ids"].shape
        prompt_positions = torch.arange(shape[1]).expand(shape)

    def lay_tokens(prompts: Int[Tensor, "K P"], answers: Int[Tensor, "A·B L"]) -> Int[Tensor, "R S"]:
        return _lay(trees, width, lambda branch: prompts[branch.context], lambda branch: answers[branch.answer])

    prompts = count_tokens(batch)[0]

    def count_on(branch: Branch) -> Int[Tensor, "... L"]:
        before = prompt_positions[..., branch.context, : prompts[branch.context]]
        steps = torch.arange(1, branch.length + 1)
        return before.amax() + steps.expand(*before.shape[:-1], -1)

    answer_ids = torch.as_tensor(batch["answer_ids"])
    attention_mask = torch.zeros(trees[-1].row + 1, width, dtype=torch.long)
    for tree in trees:
        attention_mask[tree.row, : tree.start + tree.length] = 1
    places = [place for tree in trees for place in _find_predicting_places(tree, width)]
    scored = [(branch, cell) for tree in trees for branch in tree.branches for cell in branch.cells]
    return Rows(
        input_ids=lay_tokens(torch.as_tensor(batch["prompt_ids"]), answer_ids),
        attention_mask=attention_mask,
        token_types={
            name: lay_tokens(torch.as_tensor(types), torch.full_like(answer_ids, answer_token_types.get(name, 0)))
            for name, types in batch["token_types"].items()
        },
        positions=_lay(trees, width, lambda branch: prompt_positions[..., branch.context, :], count_on),
        trees=tuple(trees),
        predicts=torch.tensor(places),
        targets=torch.cat([answer_ids[branch.answer, : branch.length] for branch, _ in scored]),
        cell_of=torch.tensor([cell for branch, cell in scored for _ in range(branch.length)]),
    )


def count_tokens(batch: Batch) -> tuple[list[int], list[int]]:
    """Returns the lengths of contexts and of answers."""
    return batch["prompt_mask"].sum(1).tolist(), batch["answer_mask"].sum(1).tolist()


def grow_trees(
    batch: Batch, cells: tuple[Cell, ...], collated: tuple[Cell, ...], *, share: bool, max_tokens: int | None = None
) -> list[Tree]:
    """Returns the trees of the cells, not placed yet.

    With `share`, contexts that begin alike are one tree, unless it had more than `max_tokens`; without, each cell is
    one.
    """
    size = len(batch["index"])
    versions, responses = image_versions(collated), response_names(collated)
    prompts, answers = count_tokens(batch)
    asked: dict[int, list[tuple[int, int, int]]] = {}  # context, answer and cell, by tree
    for cell, example in itertools.product(range(len(cells)), range(size)):
        context = versions.index(cells[cell].image) * size + example
        answer = responses.index(cells[cell].response) * size + example
        place = cell * size + example
        asked.setdefault(context if share else place, []).append((context, answer, place))
    if not share:
        return [
            Tree(tuple(_list_branches({context: None}, {context: cell}, prompts, answers, range(len(answers)))))
            for cell in asked.values()
            for context, _, _ in cell
        ]
    return _join_contexts(batch, asked, prompts, answers, max_tokens)


def _join_contexts(
    batch: Batch,
    asked: dict[int, list[tuple[int, int, int]]],
    prompts: list[int],
    answers: list[int],
    max_tokens: int | None,
) -> list[Tree]:
    """Returns one tree for contexts that begin alike: each is joined to the one before it that is most alike."""
    trees: list[_Growing] = []
    tree_of: dict[int, _Growing] = {}
    for context, its_answers in asked.items():
        added = sum(answers[answer] for _, answer, _ in its_answers) + prompts[context]
        alike = {other: _count_alike(batch["begins_as"], context, other) for other in tree_of}
        # The first of equals, so that where the two part is never before that one's own branch begins.
        for other, depth in sorted(alike.items(), key=lambda pair: -pair[1]):
            tree = tree_of[other]
            if depth and (max_tokens is None or tree.length + added - depth <= max_tokens):
                tree.parents[context] = (other, depth)
                tree.length += added - depth
                break
        else:
            tree = _Growing(added, {context: None})
            trees.append(tree)
        tree_of[context] = tree
    listed = (_list_branches(tree.parents, asked, prompts, answers, batch["answers_as"]) for tree in trees)
    return [Tree(tuple(branches)) for branches in listed]


@dataclass
class _Growing:
    """A tree while contexts are joined to it."""

    length: int
    parents: dict[int, tuple[int, int] | None]
    """By context, from the first on: the one that it begins as, and for how many tokens."""


def _count_alike(begins_as: Sequence[tuple[int, int]], one: int, other: int) -> int:
    """Returns how many tokens two contexts begin with, images included, as far as the collator lets that count."""
    ways: list[dict[int, float]] = []
    for context in (one, other):
        way, depth = {context: math.inf}, math.inf
        while begins_as[context][1]:
            context, alike = begins_as[context]
            depth = min(depth, alike)
            way[context] = depth
        ways.append(way)
    common = next((context for context in ways[0] if context in ways[1]), None)
    return 0 if common is None else int(min(ways[0][common], ways[1][common]))


def _list_branches(
    parents: dict[int, tuple[int, int] | None],
    asked: dict[int, list[tuple[int, int, int]]],
    prompts: list[int],
    answers: list[int],
    answers_as: Sequence[int],
) -> list[Branch]:
    """Returns the branches of a tree: a context, its answers, then what other contexts have beyond it."""
    found: list[Branch] = []
    numbers: dict[tuple[int, int, int], int] = {}  # of answers, by the branch and depth that they follow

    def add(context: int, after: int, depth: int) -> None:
        if prompts[context] > depth:
            found.append(Branch(context, PROMPT, prompts[context] - depth, after, depth))
            after = len(found) - 1
        for _, answer, place in asked[context]:
            key = (after, prompts[context], answers_as[answer])
            if key in numbers:  # the same answer to the same prompt: read once, scored for both
                known = found[numbers[key]]
                found[numbers[key]] = replace(known, cells=(*known.cells, place))
                continue
            numbers[key] = len(found)
            found.append(Branch(context, answer, answers[answer], after, prompts[context], (place,)))
        for later, parent in parents.items():
            if parent is not None and parent[0] == context:
                add(later, after, parent[1])

    add(next(iter(parents)), 0, 0)
    return found


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
    of_prompt: Callable[[Branch], Int[Tensor, "... P"]],
    of_answer: Callable[[Branch], Int[Tensor, "... L"]],
) -> Int[Tensor, "... R S"]:
    """Joins what each tree's tokens are given, row by row; padding repeats a row's last value.

    It is masked, and no id of an answer can be mistaken for an image's.
    """
    rows = []
    for _, members in itertools.groupby(trees, key=lambda tree: tree.row):
        parts = []
        for branch in itertools.chain.from_iterable(tree.branches for tree in members):
            if branch.answer == PROMPT:
                parts.append(of_prompt(branch)[..., branch.depth : branch.depth + branch.length])
            else:
                parts.append(of_answer(branch)[..., : branch.length])
        missing = width - sum(part.shape[-1] for part in parts)
        rows.append(torch.cat([*parts, parts[-1][..., -1:].expand(*parts[-1].shape[:-1], missing)], dim=-1))
    return torch.stack(rows, dim=-2)


def _find_predicting_places(tree: Tree, width: int) -> Iterator[int]:
    """Yields the place of the output that predicts each token of each answer: the end of the prompt, then its own."""
    row = tree.row * width
    for branch, start in zip(tree.branches, tree.starts, strict=True):
        for _ in branch.cells:
            yield row + tree.place_before(branch)
            yield from range(row + start, row + start + branch.length - 1)
