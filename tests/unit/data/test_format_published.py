"""Rows as they are published, with the schema of each dataset: what becomes of them."""

from pathlib import Path

import pytest

from mmdpo.data import formats
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.messages import plain_text
from mmdpo.records import RowError

JPEG = {"bytes": b"\xff\xd8\xff\xe0", "path": None}


def read(format="auto", **row):
    return PreferenceDataset.from_rows([row], name="pairs.json", format=format)[0]


def words(example):
    return {name: plain_text(text) for name, text in example.responses.items()}


def said(example):
    return [(turn["role"], plain_text([turn])) for turn in example.prompt]


QUESTION = [("user", "<image>What is this?")]
PAIR = {"chosen": "A cup.", "rejected": "A car."}


@pytest.mark.parametrize(
    ("name", "row", "prompt", "images"),
    [
        ("rlaif_v", {"image": JPEG, "question": "What is this?", **PAIR}, QUESTION, (JPEG["bytes"],)),
        (
            "rlhf_v",
            {"image": JPEG, "text": '{"question": "What is this?", "chosen": "A cup.", "rejected": "A car."}'},
            QUESTION,
            (JPEG["bytes"],),
        ),
        (
            "mmpr",
            {"image": ["a.jpg", "b.jpg"], "question": "<image>\nor\n<image>?", **PAIR},
            [("user", "<image>\nor\n<image>?")],
            (Path("a.jpg"), Path("b.jpg")),
        ),
        ("mm_rlhf", {"image": "a.jpg", "prompt": "What is this?", "is_tie": False, **PAIR}, QUESTION, (Path("a.jpg"),)),
        (
            "povid",
            {
                "image": "a.jpg",
                "conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "A cup."}],
                "rejected_conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "A car."}],
            },
            [("user", "<image>Hi")],
            (Path("a.jpg"),),
        ),
        (
            "llava",
            {
                "image": "a.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>Hi"},
                    {"from": "gpt", "value": "Hello."},
                    {"from": "human", "value": "And this?"},
                    {"from": "gpt", "value": "A cup."},
                ],
                **PAIR,
            },
            [("user", "<image>Hi"), ("assistant", "Hello."), ("user", "And this?")],
            (Path("a.jpg"),),
        ),
        (
            "alpaca",
            {
                "instruction": "Say it.",
                "input": "Briefly.",
                "system": "Be kind.",
                "history": [["<image>Hi", "Hello."]],
                "images": ["a.jpg"],
                **PAIR,
            },
            [("system", "Be kind."), ("user", "<image>Hi"), ("assistant", "Hello."), ("user", "Say it.\nBriefly.")],
            (Path("a.jpg"),),
        ),
        (
            "swift_query",
            {
                "query": "Which?",
                "response": "A cup.",
                "rejected_response": "A car.",
                "history": [["Hi", "Hello."]],
                "images": ["a.jpg"],
            },
            [("user", "<image>Hi"), ("assistant", "Hello."), ("user", "Which?")],
            (Path("a.jpg"),),
        ),
    ],
)
def test_a_published_row_is_the_pair_that_it_describes(name, row, prompt, images):
    assert formats.detect(row).name == name
    example = read(**row)
    assert said(example) == prompt
    assert {key: words(example)[key] for key in PAIR} == PAIR
    assert tuple(Path(i) if isinstance(i, str) else i for i in example.images) == images


def completion(response, *ratings):
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return {
        "model": "m",
        "response": response,
        "annotations": {name: {"Rating": rating} for name, rating in zip(aspects, ratings, strict=False)},
    }


class TestVLFeedback:
    COMPLETIONS = (
        completion("second", "4", "4", "5"),
        completion("best", "5", "5", "5"),
        completion("unrated", "5", "N/A", "5"),
        completion("worst", "1", "2", "5"),
        completion("also best", "5", "5", "5"),
    )

    def row(self, completions):
        return {"prompt": "What is this?", "img_path": "a.jpg", "completions": completions}

    def test_the_best_mean_is_chosen_over_the_worst(self):
        example = read(**self.row(list(self.COMPLETIONS)))
        assert words(example) == {"chosen": "best", "rejected": "worst"}
        assert said(example) == QUESTION

    def test_a_mapping_of_lists_says_the_same(self):
        columns = {key: [c[key] for c in self.COMPLETIONS] for key in ("model", "response", "annotations")}
        assert words(read(**self.row(columns))) == {"chosen": "best", "rejected": "worst"}

    def test_every_pair_of_different_scores_is_written_on_demand(self):
        parse_all = formats.vlfeedback.parse_all
        pairs = list(parse_all(self.row(list(self.COMPLETIONS)), source="", image_root=None, row_id="7"))
        assert {(words(pair)["chosen"], words(pair)["rejected"]) for pair in pairs} == {
            ("best", "second"),
            ("also best", "second"),
            ("best", "worst"),
            ("also best", "worst"),
            ("second", "worst"),
        }
        assert [pair.id for pair in pairs] == ["7-1", "7-2", "7-3", "7-4", "7-5"]

    @pytest.mark.parametrize("completions", [[], [COMPLETIONS[1]], [COMPLETIONS[1], COMPLETIONS[4]], [COMPLETIONS[2]]])
    def test_equal_scores_prefer_nothing(self, completions):
        with pytest.raises(RowError, match=r"no two different scores.*on_bad_row: skip"):
            read(format="vlfeedback", **self.row(completions))


def test_mm_rlhf_has_its_mixed_up_image_where_that_is_filled():
    row = {"image": "a.jpg", "prompt": "What is this?", "is_tie": False, **PAIR}
    assert read(**row, mixed_up_image="b.jpg").rejected_images == (Path("b.jpg"),)
    # As datasets give it where other rows have one.
    assert read(**row, mixed_up_image=None, rejected_images=["b.jpg"]).rejected_images == (Path("b.jpg"),)


def test_symmpo_has_a_contrast_image_and_an_alternative_answer():
    row = dict(formats.load("symmpo").examples[0])
    example = read(**row)
    assert words(example) == {
        "chosen": "A cup.",
        "rejected": "A car.",
        "alternative": "A kettle.",
        "resp_2_l": "A cup.",
    }
    assert (example.images, example.rejected_images) == ((row["image_1"]["bytes"],), (row["image_2"]["bytes"],))


@pytest.mark.parametrize(("flag", "expected"), [(None, None), (0, False), (1, True)])
def test_mmedpo_says_of_a_row_whether_its_image_is_noised(flag, expected):
    row = dict(formats.load("povid").examples[0], rejected_noised=flag, score=0.4)
    example = read(**row)
    assert (example.is_corrupted, example.weights) == (expected, {"score": 0.4})


@pytest.mark.parametrize(
    ("columns", "regions"),
    [
        ({"boxes": [[0, 1, 2, 3]]}, (((0.0, 1.0, 2.0, 3.0),),)),
        ({"boxes": [[[0, 1, 2, 3]], []]}, (((0.0, 1.0, 2.0, 3.0),), ())),
        ({"boxes": []}, ((),)),
        ({"mask": "m.png"}, (Path("m.png"),)),
        ({"masks": ["m.png", "n.png"]}, (Path("m.png"), Path("n.png"))),
        ({"mask": None, "boxes": None}, ()),
    ],
)
def test_any_format_may_mark_regions(columns, regions):
    example = read(prompt="<image>What?", images=["a.jpg"], **PAIR, **columns)
    assert tuple(Path(r) if isinstance(r, str) else r for r in example.regions) == regions


@pytest.mark.parametrize("boxes", [3, "all", [[1, 2, 3]], [["a", 1, 2, 3]], [[0, 0, float("inf"), 1]], {"left": 1}])
def test_what_is_no_box_is_named(boxes):
    with pytest.raises(RowError, match=r"`boxes` is .*write a list of \[left, top, right, bottom\]"):
        read(prompt="<image>What?", images=["a.jpg"], boxes=boxes, **PAIR)


IMAGE_ONLY = {"rejected_images": ["b.jpg"], "images": ["a.jpg"]}


@pytest.mark.parametrize(
    "row",
    [
        {"query": "What?", "response": "A cup.", **IMAGE_ONLY},
        {
            "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cup."}],
            **IMAGE_ONLY,
        },
    ],
    ids=["query", "messages"],
)
def test_swift_compares_one_answer_under_two_pictures(row):
    example = read(**row)
    assert words(example) == {"chosen": "A cup.", "rejected": "A cup."}
    assert [Path(image).name for image in example.rejected_images] == ["b.jpg"]


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        ("rlhf_v", {"image": JPEG, "text": "{"}, "`text` is not JSON"),
        ("rlhf_v", {"image": JPEG, "text": "[1]"}, "`text` holds list"),
        ("mm_rlhf", {"video": "a.mp4", "prompt": "What?", **PAIR}, "`video` is not supported"),
        (
            "povid",
            dict(formats.load("povid").examples[0], rejected_noised=2),
            "`rejected_noised` is 2: write 1 for a corrupted image",
        ),
        (
            "povid",
            dict(formats.load("povid").examples[0], rejected_conversations=[{"from": "gpt", "value": "A car."}]),
            "differ before their last turn",
        ),
        (
            "llava",
            {
                "image": "a.jpg",
                "conversations": [{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "A pot."}],
                **PAIR,
            },
            "neither `chosen` nor `rejected`",
        ),
        ("alpaca", {"instruction": "Hi", "history": ["Hi"], **PAIR}, r"write \[question, answer\]"),
        ("vlfeedback", {"prompt": "Hi", "image": "a.jpg", "completions": 3}, "`completions` is no list of completions"),
    ],
)
def test_what_cannot_be_read_names_the_column(format, row, message):
    with pytest.raises(RowError, match=message) as caught:
        read(format=format, **row)
    assert caught.value.source == "pairs.json, row 1"


@pytest.mark.parametrize("kind", ["image_url", "input_image"])
def test_openai_parts_carry_their_image(kind):
    url = "data:image/png;base64,iVBORw0KGgo="
    part = {"type": kind, "image_url": {"url": url} if kind == "image_url" else url}
    prompt = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    answers = {name: [{"role": "assistant", "content": text}] for name, text in PAIR.items()}
    example = read(prompt=prompt, **answers)
    assert said(example) == QUESTION
    assert example.images == (b"\x89PNG\r\n\x1a\n",)
