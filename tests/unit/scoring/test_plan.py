"""The rows of cells, written out by hand. A letter is a token: o, c are pictures, q, Q questions, the rest answers."""

import pytest
import torch

from mmdpo.examples import Cell
from mmdpo.objective import build_objective
from mmdpo.scoring.plan import plan_rows

PROMPTS = {"original": ("ooq", "oQQQ"), "corrupted": ("ccq", "cQQQ"), "none": ("q", "QQQ")}
ANSWERS = {"chosen": ("yes.", "Y."), "rejected": ("no.", "NOOO.")}
DPO, MDPO, SVCO = (build_objective(name).cells for name in ("dpo", "mdpo", "svco"))


def pad(words):
    ids, mask = torch.zeros(len(words), max(map(len, words)), dtype=torch.long), []
    for row, word in zip(ids, words, strict=True):
        row[: len(word)] = torch.tensor([ord(letter) for letter in word])
        mask.append([place < len(word) for place in range(len(row))])
    return ids, torch.tensor(mask)


def make_batch(versions, responses, token_types=None, examples=slice(0, 2)):
    prompt_ids, prompt_mask = pad([prompt for version in versions for prompt in PROMPTS[version][examples]])
    answer_ids, answer_mask = pad([answer for name in responses for answer in ANSWERS[name][examples]])
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "token_types": token_types(prompt_ids) if token_types else {},
        "answer_ids": answer_ids,
        "answer_mask": answer_mask,
        "index": torch.arange(len(PROMPTS["none"][examples])),
    }


def words(rows):
    """What each row says, and below each of its letters whether it predicts an answer token."""
    found = []
    for ids, real, predicts in zip(rows.input_ids.tolist(), rows.attention_mask, rows.predicts, strict=True):
        length = int(real.sum())
        assert real.tolist() == [1] * length + [0] * (len(real) - length), "padded on the right"
        assert not predicts[length:].any()
        marks = "".join("^" if flag else "_" for flag in predicts[:length])
        found.append(("".join(map(chr, ids[:length])), marks))
    return found


def test_two_cells():
    rows = plan_rows(make_batch(["original"], ["chosen", "rejected"]), DPO, collated=DPO, answer_token_types={})
    assert words(rows) == [
        ("ooqyes.", "__^^^^_"),
        ("oQQQY.", "___^^_"),
        ("ooqno.", "__^^^_"),
        ("oQQQNOOO.", "___^^^^^_"),
    ]
    assert rows.input_ids.shape == (4, 9), "no longer than the longest row"
    assert rows.contexts.tolist() == [0, 1, 0, 1]
    assert "".join(map(chr, rows.targets)) == "yes." + "Y." + "no." + "NOOO."


def test_three_cells():
    batch = make_batch(["original", "corrupted"], ["chosen", "rejected"])
    rows = plan_rows(batch, MDPO, collated=MDPO, answer_token_types={})
    assert [word for word, _ in words(rows)] == ["ooqyes.", "oQQQY.", "ooqno.", "oQQQNOOO.", "ccqyes.", "cQQQY."]
    assert rows.contexts.tolist() == [0, 1, 0, 1, 2, 3]


def test_six_cells():
    batch = make_batch(["original", "none", "corrupted"], ["chosen", "rejected"])
    rows = plan_rows(batch, SVCO, collated=SVCO, answer_token_types={})
    assert words(rows)[:4] == [
        ("ooqyes.", "__^^^^_"),
        ("oQQQY.", "___^^_"),
        ("qyes.", "^^^^_"),
        ("QQQY.", "__^^_"),
    ]
    assert [word for word, _ in words(rows)[4:]] == [
        *("ccqyes.", "cQQQY."),
        *("ccqno.", "cQQQNOOO."),
        *("qno.", "QQQNOOO."),
        *("ooqno.", "oQQQNOOO."),
    ]
    assert rows.contexts.tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 2, 3, 0, 1]


@pytest.mark.parametrize("examples", [slice(0, 1), slice(1, 2)])
def test_the_row_of_an_example_does_not_depend_on_its_neighbour(examples):
    versions, responses = ["original", "corrupted"], ["chosen", "rejected"]
    alone = plan_rows(make_batch(versions, responses, examples=examples), MDPO, collated=MDPO, answer_token_types={})
    together = plan_rows(make_batch(versions, responses), MDPO, collated=MDPO, answer_token_types={})
    assert words(alone) == words(together)[examples.start :: 2]


def test_cells_that_are_not_asked_for_are_not_computed():
    batch = make_batch(["original", "corrupted"], ["chosen", "rejected"])
    cells = (Cell("corrupted", "chosen"), Cell("original", "rejected"))
    rows = plan_rows(batch, cells, collated=MDPO, answer_token_types={})
    assert [word for word, _ in words(rows)] == ["ccqyes.", "cQQQY.", "ooqno.", "oQQQNOOO."]
    assert rows.contexts.tolist() == [2, 3, 0, 1]


def test_padding_is_never_a_token_of_the_prompt():
    """A padding id that happened to be the image's would ask for a picture."""
    rows = plan_rows(make_batch(["original"], ["chosen", "rejected"]), DPO, collated=DPO, answer_token_types={})
    padding = [
        set(map(chr, ids[real == 0].tolist())) for ids, real in zip(rows.input_ids, rows.attention_mask, strict=True)
    ]
    assert padding == [{"."}, {"."}, {"."}, set()]


def test_token_types_follow_the_prompt_and_hold_one_value_over_the_answer():
    batch = make_batch(
        ["original"],
        ["chosen", "rejected"],
        lambda ids: {"token_type_ids": (ids == ord("o")).long(), "mm_token_type_ids": (ids == ord("o")).long() * 2},
    )
    rows = plan_rows(batch, DPO, collated=DPO, answer_token_types={"token_type_ids": 1})
    types = {
        name: [
            "".join(map(str, row[real == 1].tolist())) for row, real in zip(values, rows.attention_mask, strict=True)
        ]
        for name, values in rows.token_types.items()
    }
    # Over            ooqyes.    oQQQY.    ooqno.    oQQQNOOO.
    assert types == {
        "token_type_ids": ["1101111", "100011", "110111", "100011111"],
        "mm_token_type_ids": ["2200000", "200000", "220000", "200000000"],
    }
