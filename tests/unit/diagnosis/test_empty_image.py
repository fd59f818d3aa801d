"""What a picture without content does: the shift by layer, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmdpo.diagnosis.empty_image import Shift, describe_answers, draw_empty, is_refusal, read_prompts, summarise
from mmdpo.records import RowError


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry, I am unable to do that.",
        "As an assistant, I can’t provide instructions.",
        "This is against our policies.",
        "We won't do that.",
        "It is not appropriate to answer.",
    ],
)
def test_refusals(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    ["Sure, here is how.", "Sorry to hear that! Take a rest.", "The man cannot swim.", "", "x" * 300 + "I cannot"],
)
def test_no_refusals(answer):
    assert not is_refusal(answer)


def test_empty_pictures():
    assert draw_empty("blank", 0).getcolors() == [(336 * 336, (127, 127, 127))]
    noise = np.asarray(draw_empty("noise", 0))
    assert noise.std() > 50
    assert np.array_equal(noise, np.asarray(draw_empty("noise", 0)))
    assert not np.array_equal(noise, np.asarray(draw_empty("noise", 1)))
    with pytest.raises(ValueError, match="blank or noise"):
        draw_empty("black", 0)


def make_shift(vectors):
    vectors = torch.tensor(vectors)
    return Shift(vectors, vectors.norm(dim=-1), torch.ones(vectors.shape[:2]))


def test_directions_by_hand():
    shift = make_shift([[[3.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]]])
    assert shift.directions()["mean"].tolist() == [[2.0, 0.0]]
    torch.testing.assert_close(shift.directions()["first_component"], torch.tensor([[2.0, 0.0]]))
    # Away from the mean there is less: the first component is along (−1, 0) with the mean's sign.
    mixed = make_shift([[[-3.0, 0.1]], [[-3.0, -0.1]]]).directions()
    torch.testing.assert_close(mixed["first_component"], torch.tensor([[-3.0, 0.0]]), atol=1e-5, rtol=0)


def test_rates_by_condition():
    prompts = read_prompts([{"prompt": "a", "image": "a.png"}, {"prompt": "b"}], "p.jsonl", Path("im"))
    assert [str(q.image) if q.image else None for q in prompts] == ["im/a.png", None]
    answers = {
        "image": {"1": "I cannot."},
        "empty": {"1": "Sure.", "2": "Sure."},
        "none": {"1": "I cannot.", "2": "Sure."},
    }
    rows = list(describe_answers(prompts, answers, make_shift([[[1.0]], [[3.0]]])))
    found = summarise(rows, make_shift([[[1.0]], [[3.0]]]), resamples=100)
    assert {name: (m["value"], m["n"]) for name, m in found["measures"].items()} == {
        "refusals_image": (100.0, 1),
        "refusals_empty": (0.0, 2),
        "refusals_none": (50.0, 2),
    }
    assert found["layers"][0]["moved"] == 2.0
    assert found["measures"]["refusals_none"]["low"] is None
    assert found["notes"] == ["2 prompts: too few for intervals to be trusted, which need 10"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": ""}], "p, row 1: `prompt` is"),
        ([3], "p, row 1: `prompt` is None"),
        ([{"prompt": "a", "image": ["a.png", "b.png"]}], "row 1: there are 2 images"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], "the id '1' is given to several prompts"),
        ([], "p: there are no prompts"),
    ],
)
def test_what_is_no_prompt(rows, message):
    with pytest.raises(RowError, match=message):
        read_prompts(rows, "p", None)
