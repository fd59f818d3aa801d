"""The rows of cells, written out by hand. A letter is a token: o, c are pictures, q, Q questions, the rest answers."""

import pytest
import torch

from mmdpo.objective import build_objective
from mmdpo.records import Cell
from mmdpo.scoring.plan import PROMPT, Branch, Tree, _join_contexts, count_tokens, pack_trees, plan_rows

PROMPTS = {"original": ("ooq", "oQQQ"), "corrupted": ("ccq", "cQQQ"), "none": ("q", "QQQ")}
ANSWERS = {"chosen": ("yes.", "Y."), "rejected": ("no.", "NOOO.")}
DPO, MDPO, SVCO = (build_objective(name).cells for name in ("dpo", "mdpo", "svco"))
BOTH = ["chosen", "rejected"]


def pad(words):
    ids, mask = torch.zeros(len(words), max(map(len, words)), dtype=torch.long), []
    for row, word in zip(ids, words, strict=True):
        row[: len(word)] = torch.tensor([ord(letter) for letter in word])
        mask.append([place < len(word) for place in range(len(row))])
    return ids, torch.tensor(mask)


def make_batch(versions, token_types=None, examples=slice(0, 2)):
    prompt_ids, prompt_mask = pad([prompt for version in versions for prompt in PROMPTS[version][examples]])
    answer_ids, answer_mask = pad([answer for name in BOTH for answer in ANSWERS[name][examples]])
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "token_types": token_types(prompt_ids) if token_types else {},
        "begins_as": [(k, 0) for k in range(len(prompt_ids))],
        "answer_ids": answer_ids,
        "answer_mask": answer_mask,
        "answers_as": list(range(len(answer_ids))),
        "index": torch.arange(len(PROMPTS["none"][examples])),
    }


VERSIONS = {DPO: ["original"], MDPO: ["original", "corrupted"], SVCO: ["original", "none", "corrupted"]}


def plan(cells, *, asked=None, batch=None, answer_token_types=None, **options):
    batch = batch or make_batch(VERSIONS[cells])
    return plan_rows(batch, asked or cells, collated=cells, answer_token_types=answer_token_types or {}, **options)


def read(values, rows):
    """What stands over the tokens of each row, without its padding, which is on the right."""
    found = []
    for row, real in zip(values.tolist(), rows.attention_mask.tolist(), strict=True):
        length = sum(real)
        assert real == [1] * length + [0] * (len(real) - length)
        found.append(row[:length])
    return found


def words(rows):
    return ["".join(map(chr, row)) for row in read(rows.input_ids, rows)]


def count(rows):
    """The positions of each row, as digits."""
    return ["".join(map(str, row)) for row in read(rows.positions, rows)]


def predictions(rows):
    """Each answer as it is predicted: the letters before its tokens, the tokens, and the cells and examples of both."""
    before = "".join(map(chr, rows.input_ids.flatten()[rows.predicts]))
    targets, cells = "".join(map(chr, rows.targets)), rows.cell_of.tolist()
    starts = [n for n in range(len(cells)) if n == 0 or cells[n] != cells[n - 1]]
    ends = [*starts[1:], len(cells)]
    return [(before[a:b], targets[a:b], cells[a]) for a, b in zip(starts, ends, strict=True)]


# -- separate ---------------------------------------------------------------------------------------------------------


def test_separately_two_cells_are_four_rows():
    rows = plan(DPO)
    assert words(rows) == ["ooqyes.", "oQQQY.", "ooqno.", "oQQQNOOO."]
    assert count(rows) == ["0123456", "012345", "012345", "012345678"]
    assert rows.input_ids.shape == (4, 9), "no longer than the longest row"
    assert rows.contexts == [0, 1, 0, 1]
    assert rows.predicts.tolist() == [2, 3, 4, 5, 9 + 3, 9 + 4, 18 + 2, 18 + 3, 18 + 4, *range(27 + 3, 27 + 8)]
    assert predictions(rows) == [("qyes", "yes.", 0), ("QY", "Y.", 1), ("qno", "no.", 2), ("QNOOO", "NOOO.", 3)]


def test_separately_three_cells_are_six_rows():
    rows = plan(MDPO)
    assert words(rows) == ["ooqyes.", "oQQQY.", "ooqno.", "oQQQNOOO.", "ccqyes.", "cQQQY."]
    assert rows.contexts == [0, 1, 0, 1, 2, 3]


def test_separately_six_cells_are_twelve_rows():
    rows = plan(SVCO)
    assert words(rows) == [
        *("ooqyes.", "oQQQY.", "qyes.", "QQQY.", "ccqyes.", "cQQQY."),
        *("ccqno.", "cQQQNOOO.", "qno.", "QQQNOOO.", "ooqno.", "oQQQNOOO."),
    ]
    assert rows.contexts == [0, 1, 2, 3, 4, 5, 4, 5, 2, 3, 0, 1]
    assert [cell for _, _, cell in predictions(rows)] == list(range(12))


@pytest.mark.parametrize("examples", [slice(0, 1), slice(1, 2)])
def test_the_row_of_an_example_does_not_depend_on_its_neighbour(examples):
    alone, together = plan(MDPO, batch=make_batch(VERSIONS[MDPO], examples=examples)), plan(MDPO)
    assert words(alone) == words(together)[examples.start :: 2]
    assert [p[:2] for p in predictions(alone)] == [p[:2] for p in predictions(together)[examples.start :: 2]]


# -- shared -----------------------------------------------------------------------------------------------------------


def test_two_cells_under_one_picture_are_one_tree():
    rows = plan(DPO, share=True)
    assert words(rows) == ["ooqyes.no." + "oQQQY.NOOO."]
    # Positions begin anew behind the prompt with every answer, and with every tree.
    assert count(rows) == ["0123456345" + "01234545678"]
    assert rows.contexts == [0, 1]
    # Each answer's first token is predicted by the end of the prompt, whatever stands between.
    assert rows.predicts.tolist() == [2, 3, 4, 5, 2, 7, 8, 10 + 3, 10 + 4, 10 + 3, *range(10 + 6, 10 + 10)]
    assert predictions(rows) == [("qyes", "yes.", 0), ("qno", "no.", 2), ("QY", "Y.", 1), ("QNOOO", "NOOO.", 3)]


def test_the_corrupted_picture_has_a_tree_of_its_own():
    rows = plan(MDPO, share=True)
    assert words(rows) == ["ooqyes.no." + "oQQQY.NOOO." + "ccqyes." + "cQQQY."]
    assert rows.contexts == [0, 1, 2, 3]
    assert [cell for _, _, cell in predictions(rows)] == [0, 2, 1, 3, 4, 5]


def test_six_cells_are_three_trees_of_an_example():
    rows = plan(SVCO, share=True)
    trees = ["ooqyes.no.", "oQQQY.NOOO.", "qyes.no.", "QQQY.NOOO.", "ccqyes.no.", "cQQQY.NOOO."]
    assert words(rows) == ["".join(trees)]
    assert rows.contexts == [0, 1, 2, 3, 4, 5]
    # [w, w], [∅, w], [l, w], [l, l], [∅, l], [w, l] of two examples are 0 to 11.
    assert [cell for _, _, cell in predictions(rows)] == [0, 10, 1, 11, 2, 8, 3, 9, 4, 6, 5, 7]


# -- contexts that begin alike ----------------------------------------------------------------------------------------

# Questions about one picture `oo`; the third asks what the first does, and has an answer in common with it.
ALIKE = {
    "prompts": ("ooqa", "ooqbc", "ooqa", "ooqbd"),
    "chosen": ("yes.", "Y.", "yes.", "J."),
    "rejected": ("no.", "N.", "so.", "No."),
    "begins_as": [(0, 0), (0, 3), (0, 4), (1, 4)],
    "answers_as": [0, 1, 0, 3, 4, 5, 6, 7],
}


def make_alike(versions=1):
    prompts = [prompt.replace("o", letter) for letter in "oc"[:versions] for prompt in ALIKE["prompts"]]
    prompt_ids, prompt_mask = pad(prompts)
    answer_ids, answer_mask = pad([*ALIKE["chosen"], *ALIKE["rejected"]])
    begins_as = [(4 * version + other, alike) for version in range(versions) for other, alike in ALIKE["begins_as"]]
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "begins_as": begins_as,
        "token_types": {},
        "answer_ids": answer_ids,
        "answer_mask": answer_mask,
        "answers_as": ALIKE["answers_as"],
        "index": torch.arange(4),
    }


def test_what_questions_about_a_picture_begin_with_is_read_once():
    rows = plan(DPO, batch=make_alike(), share=True)
    first, second, third, fourth = "ooqayes.no.", "bcY.N.", "so.", "dJ.No."
    assert words(rows) == [first + second + fourth + third]
    assert count(rows) == ["01234567456" + "345656" + "456567" + "456"]
    assert rows.contexts == [0]
    # Answers go on from the end of their own question, wherever it stands; `yes.` is read once for two pairs.
    assert predictions(rows) == [
        *(("ayes", "yes.", 0), ("ayes", "yes.", 2), ("ano", "no.", 4)),
        *(("cY", "Y.", 1), ("cN", "N.", 5)),
        *(("dJ", "J.", 3), ("dNo", "No.", 7)),
        ("aso", "so.", 6),
    ]


def test_separately_nothing_is_read_once():
    rows = plan(DPO, batch=make_alike())
    assert words(rows)[:4] == ["ooqayes.", "ooqbcY.", "ooqayes.", "ooqbdJ."]
    assert [cell for _, _, cell in predictions(rows)] == list(range(8))


def test_every_picture_has_a_tree():
    rows = plan(MDPO, batch=make_alike(versions=2), share=True)
    assert words(rows) == ["ooqayes.no.bcY.N.dJ.No.so." + "ccqayes.bcY.dJ."]
    assert rows.contexts == [0, 4]
    assert [cell for _, _, cell in predictions(rows)] == [0, 2, 4, 1, 5, 3, 7, 6, 8, 10, 9, 11]


def test_contexts_whose_beginning_is_not_asked_for_begin_alike_all_the_same():
    """Of the first question no cell is asked for here: the third is read in its place."""
    batch = make_alike()
    asked = {context: cells for context, cells in _asked_of(batch).items() if context != 0}
    trees = _join_contexts(batch, asked, *count_tokens(batch), None)
    assert [[(b.context, b.answer == PROMPT, b.after, b.depth, b.length) for b in tree.branches] for tree in trees] == [
        [
            (1, True, 0, 0, 5),
            (1, False, 0, 5, 2),
            (2, True, 0, 3, 1),
            (2, False, 2, 4, 4),
            (3, True, 0, 4, 1),
            (3, False, 4, 5, 2),
        ]
    ]


def _asked_of(batch):
    return {context: [(context, context, context)] for context in range(len(batch["prompt_ids"]))}


@pytest.mark.parametrize(
    ("budget", "rows"),
    [
        (30, ["ooqayes.no.bcY.N.dJ.No.so."]),
        (26, ["ooqayes.no.bcY.N.so.", "ooqbdJ.No."]),
        (23, ["ooqayes.no.bcY.N.dJ.No.", "ooqayes.so."]),
        (12, ["ooqayes.no.", "ooqbcY.N.", "ooqayes.so.", "ooqbdJ.No."]),
    ],
)
def test_no_tree_grows_over_the_budget_by_joining(budget, rows):
    found = plan(DPO, batch=make_alike(), share=True, max_tokens=budget)
    assert sorted(words(found)) == sorted(rows)
    assert sorted(cell for _, _, cell in predictions(found)) == list(range(8))


def test_the_longest_tree_comes_first_and_the_others_where_there_is_room():
    rows = plan(MDPO, share=True, max_tokens=17)
    assert words(rows) == ["oQQQY.NOOO." + "cQQQY.", "ooqyes.no." + "ccqyes."]
    assert count(rows) == ["01234545678" + "012345", "0123456345" + "0123456"]
    assert rows.attention_mask.all()
    # The order of trees is that of the rows, and so are contexts and predictions.
    assert rows.contexts == [1, 3, 0, 2]
    assert rows.predicts.tolist() == [
        *(3, 4, 3, 6, 7, 8, 9, 11 + 3, 11 + 4),
        *(17 + n for n in (2, 3, 4, 5, 2, 7, 8)),
        *(27 + n for n in (2, 3, 4, 5)),
    ]
    assert predictions(rows) == [
        *(("QY", "Y.", 1), ("QNOOO", "NOOO.", 3), ("QY", "Y.", 5)),
        *(("qyes", "yes.", 0), ("qno", "no.", 2), ("qyes", "yes.", 4)),
    ]


def test_a_tree_over_the_budget_has_a_row_alone():
    rows = plan(MDPO, share=True, max_tokens=10)
    assert words(rows) == ["oQQQY.NOOO.", "ooqyes.no.", "ccqyes.", "cQQQY."]
    assert rows.input_ids.shape == (4, 11)


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [
        ([3, 5, 4], None, [[3, 5, 4]]),
        ([3, 5, 4], 12, [[3, 5, 4]]),
        ([3, 5, 4], 11, [[5, 4], [3]]),
        ([3, 5, 4], 8, [[5, 3], [4]]),
        ([1, 6, 2, 5, 2], 8, [[6, 2], [5, 2, 1]]),
        ([9, 1, 1], 4, [[9], [1, 1]]),
    ],
)
def test_trees_are_packed_by_first_fit(lengths, budget, rows):
    trees = [
        Tree((Branch(n, PROMPT, length - 1), Branch(n, n, 1, 0, length - 1, (n,)))) for n, length in enumerate(lengths)
    ]
    placed = pack_trees(trees, budget)
    found = [[tree.length for tree in placed if tree.row == row] for row in range(placed[-1].row + 1)]
    assert found == rows
    for row in range(len(rows)):
        starts = [tree.start for tree in placed if tree.row == row]
        assert starts == [sum(rows[row][:n]) for n in range(len(starts))]
    assert sorted(tree.context for tree in placed) == list(range(len(lengths)))


# -- both -------------------------------------------------------------------------------------------------------------


def test_cells_that_are_not_asked_for_are_not_computed():
    asked = (Cell("corrupted", "chosen"), Cell("original", "rejected"))
    rows = plan(MDPO, asked=asked)
    assert words(rows) == ["ccqyes.", "cQQQY.", "ooqno.", "oQQQNOOO."]
    assert rows.contexts == [2, 3, 0, 1]
    shared = plan(MDPO, asked=asked, share=True)
    assert words(shared) == ["ccqyes." + "cQQQY." + "ooqno." + "oQQQNOOO."]
    assert shared.contexts == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("options", "padded"),
    [(dict(), 3), (dict(share=True, max_tokens=12), 1), (dict(share=True, multiple_of=8), 1)],
    ids=["separate", "several rows", "one row"],
)
def test_padding_is_never_a_token_of_the_prompt(options, padded):
    """A padding id that happened to be the image's would ask for a picture. Types and positions repeat too."""
    types = make_batch(["original"], lambda ids: {"token_type_ids": (ids == ord("o")).long()})
    rows = plan(DPO, batch=types, **options)
    for values in (rows.input_ids, rows.token_types["token_type_ids"], rows.positions):
        for row, real, ids in zip(values, rows.attention_mask == 1, rows.input_ids, strict=True):
            assert set(row[~real].tolist()) <= {row[real][-1].item()}
            assert set(ids[~real].tolist()) <= {ord(".")}
    assert not rows.attention_mask.all()
    assert padded == sum(not row.all() for row in rows.attention_mask)


@pytest.mark.parametrize(("multiple", "width"), [(1, 21), (8, 24), (7, 21), (128, 128)])
def test_rows_are_padded_to_a_multiple(multiple, width):
    rows = plan(DPO, share=True, multiple_of=multiple)
    assert rows.input_ids.shape == rows.positions.shape == rows.attention_mask.shape == (1, width)
    assert words(rows) == ["ooqyes.no.oQQQY.NOOO."]
    assert predictions(rows) == predictions(plan(DPO, share=True))


@pytest.mark.parametrize("options", [dict(), dict(share=True), dict(share=True, max_tokens=12)])
def test_given_positions_are_continued_behind_the_largest(options):
    """M-RoPE: a picture has three positions, and the text behind it goes on from the largest of all."""
    given = torch.tensor(
        [
            [[0, 0, 2, 99], [0, 4, 5, 6]],
            [[0, 1, 2, 99], [3, 4, 5, 6]],
            [[0, 0, 1, 99], [0, 4, 5, 9]],  # a largest position that is not the last, and not in every row
        ]
    )
    rows = plan(DPO, prompt_positions=given, **options)
    assert rows.positions.shape == (3, *rows.input_ids.shape)
    of_answer = {"yes.": "3456", "no.": "345", "Y.": "ab", "NOOO.": "abcde"}  # in hexadecimal digits
    of_prompt = [{"ooq": "002", "oQQQ": "0456"}, {"ooq": "012", "oQQQ": "3456"}, {"ooq": "001", "oQQQ": "0459"}]
    for axis, prompts in zip(rows.positions, of_prompt, strict=True):
        found = ["".join(f"{n:x}" for n in row) for row in read(axis, rows)]
        expected = words(rows)
        for text, digits in {**prompts, **of_answer}.items():
            expected = [row.replace(text, digits) for row in expected]
        assert found == expected


@pytest.mark.parametrize("share", [False, True])
def test_token_types_follow_the_prompt_and_hold_one_value_over_the_answer(share):
    batch = make_batch(
        ["original"],
        lambda ids: {"token_type_ids": (ids == ord("o")).long(), "mm_token_type_ids": (ids == ord("o")).long() * 2},
    )
    rows = plan(DPO, batch=batch, answer_token_types={"token_type_ids": 1}, share=share)
    types = {name: ["".join(map(str, row)) for row in read(values, rows)] for name, values in rows.token_types.items()}
    if share:
        # Over            ooqyes.no. oQQQY.NOOO.
        assert types == {
            "token_type_ids": ["1101111111" + "10001111111"],
            "mm_token_type_ids": ["2200000000" + "20000000000"],
        }
    else:
        # Over            ooqyes.    oQQQY.    ooqno.    oQQQNOOO.
        assert types == {
            "token_type_ids": ["1101111", "100011", "110111", "100011111"],
            "mm_token_type_ids": ["2200000", "200000", "220000", "200000000"],
        }
