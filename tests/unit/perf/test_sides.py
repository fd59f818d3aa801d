"""Everybody who is timed computes the same thing, and who does not is refused."""

from dataclasses import replace

import pytest
import torch

from perf import sides
from perf.rows import build_processor, draw_lengths, make_rows
from perf.shapes import LARGE, TINY, shrink
from perf.sides import Setting, build_sides, check_agreement, compare_sides


def build(shape, wanted, setting=Setting()):  # noqa: B008
    rows = make_rows(shape, draw_lengths(shape.lengths, 3, seed=0), seed=0)
    return build_sides(shape, rows, setting, wanted)


def test_all_sides_agree_in_loss_and_gradients():
    built = build(TINY, sides.ALL)
    agreements = compare_sides(built)
    assert agreements.keys() == {name for group in sides.SAME_LOSS for name in group}
    check_agreement(agreements, tolerance=1e-5)
    # Far enough from the start that a wrong reference or image would show.
    at_start = torch.log(torch.tensor(2.0)).item()
    assert abs(agreements[sides.ORIGINAL].loss - 3 * at_start) > 1e-3
    assert abs(agreements[sides.TRL].loss - at_start) > 1e-4


@pytest.mark.parametrize("family", ["bunny", "qwen"])
def test_sides_agree_for_other_families_and_with_checkpointing(family):
    wanted = (sides.ORIGINAL, sides.ANSWER_HEAD, sides.MDPO)
    check_agreement(compare_sides(build(shrink(LARGE[family]), wanted, Setting(checkpointing=True))), tolerance=1e-5)


def test_a_side_that_computes_something_else_is_refused():
    built = build(TINY, (sides.ORIGINAL, sides.MDPO))
    honest = built[sides.MDPO]
    built[sides.MDPO] = replace(honest, step=lambda: honest.step() and honest.step())
    with pytest.raises(sides.DisagreementError, match=sides.MDPO):
        check_agreement(compare_sides(built))


def test_rows_have_the_tokens_that_were_asked_for():
    processor = build_processor(TINY)
    row = make_rows(TINY, [(5, 7, 9)], seed=0)[0]
    for name, count in (("prompt", 5), ("chosen", 7), ("rejected", 9)):
        text = row[name][0]["content"][-1]["text"]
        assert len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) == count
        assert processor.tokenizer.unk_token_id not in processor.tokenizer(text)["input_ids"]
